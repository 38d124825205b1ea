"""The polar factor: the nearest isometry, which orthogonalises a basis and flattens a spectrum."""

import torch
from torch import Tensor

from esm_core.linalg.gram import gram, on_lapack
from esm_core.linalg.symmetric import Eigen, Tridiagonal

_SMALL = 1e-6
"""Eigenvalue of the Gram matrix, beside the largest, up to which squaring has cost too many digits."""

_ROUGH, _ROUGH_SHARE = 3e-5, 0.04
"""The same up to which float32 tells a direction badly; and the share of directions it tells worst."""

_TRACE, _WANTED = 3e-8, 2e-5
"""What a weak direction holds of strong ones after one correction; error of a product that needs no more."""

_MORE = 3
"""Corrections more, of the directions that need them."""

_TRIDIAGONAL_SIZE = 1024
"""Side from which an inverse root on few columns is cheaper without eigenvectors."""

_ROWS = 512
"""Rows of a matrix that are taken to float64 at once: few enough to stay in a core's cache."""


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The polar factor ``U Vᵀ`` of ``A = U Σ Vᵀ``, and the singular values, descending.

    Directions whose singular value is rounding noise are left out of the sum, so the factor of a
    rank-deficient matrix is a partial isometry and does not depend on arbitrary vectors.

    Parameters
    ----------
    matrix : Tensor
        ``[m, n]``.

    Returns
    -------
    factor : Tensor
        ``[m, n]``, nearest (partial) isometry.
    singular_values : Tensor
        ``[min(m, n)]``.

    Notes
    -----
    :func:`nearly_polar`, and one Newton-Schulz step, after which it is orthonormal to rounding.
    """
    factor, values = nearly_polar(matrix)
    if factor.shape[0] < factor.shape[1]:
        return 1.5 * factor - 0.5 * ((factor @ factor.mT) @ factor), values
    return 1.5 * factor - 0.5 * (factor @ (factor.mT @ factor)), values


def nearly_polar(matrix: Tensor, given: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """:func:`polar`, orthonormal to 1e-9: enough for what is rounded to float32 later.

    Parameters
    ----------
    matrix : Tensor
        ``[m, n]``, float64.
    given : dtype
        What its values were rounded to before; what that rounding alone makes of a direction is noise.

    Notes
    -----
    ``A (AᵀA)^(-1/2)`` through an eigenproblem of the smaller side. It loses the digits of small singular
    values, so the directions of those are taken from an SVD of their images under ``A`` instead.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = nearly_polar(matrix.mT, given)
        return factor.mT, values
    if matrix.numel() == 0:
        return matrix.clone(), matrix.new_zeros(0)
    eigen = Eigen.of(gram(matrix))
    eigenvalues, vectors = eigen.values, eigen.leading(matrix.shape[1])
    large = _large(eigenvalues)
    kept, roots = vectors[:, :large], eigenvalues[:large].sqrt()
    factor = matrix @ ((kept / roots) @ kept.mT)
    if large == eigenvalues.numel():
        return factor, roots
    rest = vectors[:, large:]
    image = matrix @ rest
    image = image - factor @ (factor.mT @ image)
    left, values, right = _small_part(image, eigenvalues[0].sqrt(), given)
    return factor + left @ (right @ rest.mT), torch.cat([roots, values]).sort(descending=True).values


def polar_times(matrix: Tensor, columns: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """``polar(A) X`` and the mean singular value of ``A``, without the polar factor where that is cheaper.

    Parameters
    ----------
    matrix : Tensor
        ``A``, ``[m, n]``, float64 or float32.
    columns : Tensor
        ``X``, ``[n, c]``, float64.
    product : Tensor
        :func:`gram` of ``A`` in float32, ``[n, n]``; overwritten.

    Returns
    -------
    times : Tensor
        ``[m, c]``, float64.
    mean : Tensor
        No dimension, float64.

    Notes
    -----
    Where ``X`` has far fewer columns than ``A``, ``(AᵀA)^(-1/2)`` is applied to it as a rational function
    of a tridiagonal matrix. That is done in float32, but for the directions that float32 tells badly: those
    are taken out before, and their part is made in float64 from their images under ``A``. The product is
    within 1e-4 (Frobenius, relative) of the one in float64 throughout; a merged weight, of which an update
    is a few percent, changes by about as much as rounding to float32 changes it.
    """
    rows, size = matrix.shape
    if not on_lapack(matrix) or size < _TRIDIAGONAL_SIZE or size > rows or 2 * columns.shape[1] > size:
        factor, values = nearly_polar(matrix.to(torch.float64), matrix.dtype)
        return factor @ columns, values.mean()
    reduced = Tridiagonal.of(product)
    few = max(int((reduced.values <= _ROUGH * reduced.values[-1]).sum()), int(_ROUGH_SHARE * size))
    weakest = float(reduced.values[few])
    rest, image = _weak_directions(matrix, reduced, few)
    met = rest.mT @ columns
    roots = reduced.values[few:].sqrt()
    root = reduced.inverse_root(columns - rest @ met, weakest)
    times = (matrix.to(torch.float32) @ root).to(torch.float64)
    left, values, right = _small_part(image, roots[-1], matrix.dtype)
    return times + left @ (right @ met), torch.cat([roots, values]).mean()


def _weak_directions(matrix: Tensor, reduced: Tridiagonal, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest right singular directions, ``[n, count]``, and their images, float64.

    Those of the reduction hold a trace of strong directions, whose images drown theirs. A correction, by
    what ``AᵀA`` in float64 says of them, leaves a thousandth of it; the faintest directions take more.
    """
    found = reduced.smallest(count)
    if count == 0:
        return found, matrix.new_zeros(matrix.shape[0], 0, dtype=torch.float64)
    found = _corrected(matrix, reduced, found)
    image = _image(matrix, found)
    errors = _TRACE * reduced.values[-1].sqrt() / image.norm(dim=0)
    if errors.square().sum() <= matrix.shape[1] * _WANTED**2:
        return found, image
    faint = int((errors > _WANTED).sum())
    weak = found[:, :faint]
    for _ in range(_MORE):
        weak = _corrected(matrix, reduced, weak)
    found = torch.linalg.qr(torch.cat([weak, found[:, faint:]], dim=1)).Q
    return found, _image(matrix, found)


def _corrected(matrix: Tensor, reduced: Tridiagonal, found: Tensor) -> Tensor:
    seen = torch.zeros_like(found)
    for rows in torch.split(matrix, _ROWS):
        some = rows.to(torch.float64)
        seen.addmm_(some.mT, some @ found)
    strange = seen - found @ (found.mT @ seen)
    trace = reduced.inverse(strange)
    corrected: Tensor = torch.linalg.qr(found - trace.to(torch.float64)).Q
    return corrected


def _image(matrix: Tensor, columns: Tensor) -> Tensor:
    return torch.cat([rows.to(torch.float64) @ columns for rows in torch.split(matrix, _ROWS)])


def _large(eigenvalues: Tensor) -> int:
    """How many of the descending eigenvalues of a Gram matrix tell their singular values well."""
    if eigenvalues[0] <= 0:
        return 0
    return int((eigenvalues > _SMALL * eigenvalues[0]).sum())


def _small_part(image: Tensor, largest: Tensor, given: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, all singular values and ``Vᵀ`` of ``image``, ``[m, k]``; vectors of rounding noise are left out.

    ``image`` is what a matrix ``[m, n]`` of the given largest singular value makes of ``k`` directions. What
    rounding adds to the matrix is as random, so below ``eps`` beside that; products in float64 add no more
    than ``m`` times theirs.
    """
    left, values, right = torch.linalg.svd(image, full_matrices=False)
    noise = max(image.shape[0] * torch.finfo(image.dtype).eps, torch.finfo(given).eps)
    rank = int((values > largest * noise).sum())
    return left[:, :rank], values, right[:rank]
