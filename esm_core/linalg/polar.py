"""The polar factor: the nearest isometry, which orthogonalises a basis and flattens a spectrum."""

import torch
from torch import Tensor

from esm_core.linalg.gram import gram, mirrored, on_lapack
from esm_core.linalg.symmetric import Eigen, Tridiagonal

_SMALL = 1e-6
"""Eigenvalue of the Gram matrix, beside the largest, up to which squaring has cost too many digits."""

_EXACT = 1e-3
"""The same up to which a factor through the Gram matrix is orthonormal but for rounding."""

_ROUGH, _ROUGH_SHARE = 3e-5, 0.04
"""The same up to which float32 tells a direction badly; and the share of directions it tells worst."""

_FAINT = 1e-6
"""The same from which on one correction of a direction that float32 tells badly is enough."""

_TRIDIAGONAL_SIZE = 1024
"""Side from which an inverse root on few columns is cheaper without eigenvectors."""


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
    ``A (AᵀA)^(-1/2)`` through an eigenproblem of the smaller side. It loses the digits of small singular
    values, so the directions of those are taken from an SVD of their images under ``A`` instead.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = polar(matrix.mT)
        return factor.mT, values
    if matrix.numel() == 0:
        return matrix.clone(), matrix.new_zeros(0)
    eigen = Eigen.of(gram(matrix))
    eigenvalues, vectors = eigen.values, eigen.leading(matrix.shape[1])
    large = _large(eigenvalues)
    kept, roots = vectors[:, :large], eigenvalues[:large].sqrt()
    factor = matrix @ ((kept / roots) @ kept.mT)
    if large and eigenvalues[large - 1] < _EXACT * eigenvalues[0]:
        factor = _orthonormalised(factor, kept)
    if large == eigenvalues.numel():
        return factor, roots
    rest = vectors[:, large:]
    image = matrix @ rest
    image = image - factor @ (factor.mT @ image)
    left, values, right = _small_part(image, eigenvalues[0].sqrt(), matrix.shape[0])
    return factor + left @ (right @ rest.mT), torch.cat([roots, values]).sort(descending=True).values


def polar_times(matrix: Tensor, columns: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """``polar(A) X`` and the mean singular value of ``A``, without the polar factor where that is cheaper.

    Parameters
    ----------
    matrix : Tensor
        ``A``, ``[m, n]``.
    columns : Tensor
        ``X``, ``[n, c]``.
    product : Tensor
        :func:`gram` of ``A`` in float32, ``[n, n]``; overwritten.

    Returns
    -------
    times : Tensor
        ``[m, c]``.
    mean : Tensor
        No dimension.

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
        factor, values = polar(matrix)
        return factor @ columns, values.mean()
    reduced = Tridiagonal.of(product)
    few = max(int((reduced.values <= _ROUGH * reduced.values[-1]).sum()), int(_ROUGH_SHARE * size))
    weakest = float(reduced.values[few])
    rest = _weak_directions(matrix, reduced, few, weakest)
    met = rest.mT @ columns
    roots = reduced.values[few:].sqrt()
    root = reduced.inverse_root(columns - rest @ met, weakest)
    times = (matrix.to(torch.float32) @ root).to(matrix.dtype)
    left, values, right = _small_part(matrix @ rest, roots[-1], rows)
    return times + left @ (right @ met), torch.cat([roots, values]).mean()


def _orthonormalised(factor: Tensor, kept: Tensor) -> Tensor:
    """One Newton-Schulz step for a factor that is nearly an isometry of the span of ``kept``, ``[n, k]``.

    What the step takes away is small, so a product in float32 tells it to rounding.
    """
    excess = mirrored(gram(factor)) - kept @ kept.mT
    rough = torch.float32
    return factor - 0.5 * (factor.to(rough) @ excess.to(rough)).to(factor.dtype)


def _weak_directions(matrix: Tensor, reduced: Tridiagonal, count: int, weakest: float) -> Tensor:
    """The ``count`` smallest right singular directions, ``[n, count]``, float64.

    Those of the reduction hold a trace of strong directions, whose images drown theirs. A correction, by
    what ``AᵀA`` in float64 says of them, leaves a thousandth of it; the faintest directions take two more.
    """
    found = reduced.smallest(count)
    if count == 0:
        return found
    found = _corrected(matrix, reduced, found, weakest)
    faint = int((reduced.values <= _FAINT * reduced.values[-1]).sum())
    if faint == 0:
        return found
    weak = found[:, :faint]
    for _ in range(2):
        weak = _corrected(matrix, reduced, weak, weakest)
    together: Tensor = torch.linalg.qr(torch.cat([weak, found[:, faint:]], dim=1)).Q
    return together


def _corrected(matrix: Tensor, reduced: Tridiagonal, found: Tensor, weakest: float) -> Tensor:
    image = matrix.mT @ (matrix @ found)
    strange = image - found @ (found.mT @ image)
    trace = reduced.inverse_root(strange, weakest, times=2)
    corrected: Tensor = torch.linalg.qr(found - trace.to(matrix.dtype)).Q
    return corrected


def _large(eigenvalues: Tensor) -> int:
    """How many of the descending eigenvalues of a Gram matrix tell their singular values well."""
    if eigenvalues[0] <= 0:
        return 0
    return int((eigenvalues > _SMALL * eigenvalues[0]).sum())


def _small_part(image: Tensor, largest: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, all singular values and ``Vᵀ`` of ``image``, ``[m, k]``; vectors of rounding noise are left out.

    ``image`` is what a matrix of the given size and largest singular value makes of ``k`` directions.
    """
    left, values, right = torch.linalg.svd(image, full_matrices=False)
    rank = int((values > largest * size * torch.finfo(image.dtype).eps).sum())
    return left[:, :rank], values, right[:rank]
