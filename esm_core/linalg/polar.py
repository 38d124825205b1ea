"""The polar factor: the nearest isometry, which orthogonalises a basis and flattens a spectrum."""

from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.linalg.gram import gram, mirrored
from esm_core.linalg.symmetric import Eigen

_SMALL = 1e-6
"""Eigenvalue of the Gram matrix, beside the largest, up to which squaring has cost too many digits."""

_SMALL_OF_ROUNDED = 1e-8
"""The same where values were rounded to float32 before: the direction is told to 1e-7 even there."""


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


def nearly_polar(
    matrix: Tensor, given: torch.dtype = torch.float64, precision: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """:func:`polar`, orthonormal to 1e-9, or to 1e-7 where float32 was given: enough to be rounded to that.

    Parameters
    ----------
    matrix : Tensor
        ``[m, n]``, float64.
    given : dtype
        What its values were rounded to before; what that rounding alone makes of a direction is noise.
    precision : dtype
        Of the factor. In float32 it is as exact as values that were rounded to float32 let it be.

    Notes
    -----
    ``A (AᵀA)^(-1/2)`` through an eigenproblem of the smaller side, in float64. It loses the digits of small
    singular values, so the directions of those are taken from an SVD of their images under ``A`` instead.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = nearly_polar(matrix.mT, given, precision)
        return factor.mT, values
    # An inverse root with large entries must not be rounded to float32.
    rounded = given == torch.float32 and precision == torch.float64
    flat = _Flattening.of(matrix, _SMALL_OF_ROUNDED if rounded else _SMALL)
    factor = matrix.to(precision) @ flat.inverse.to(precision)
    image = matrix @ flat.rest
    image -= factor @ (image.mT.to(precision) @ factor).mT
    left, values, right = flat.weak(image, given)
    return factor.addmm_(left.to(precision), right.to(precision)), values


def times_polar(matrix: Tensor, wide: Tensor, given: torch.dtype) -> tuple[Tensor, Tensor]:
    """``A polar(B)``, ``[m, c]``, and the singular values of ``B``, ``[n]``, descending; both float64.

    Parameters
    ----------
    matrix : Tensor
        ``A``, ``[m, n]``.
    wide : Tensor
        ``B``, ``[n, c]`` with ``n <= c``.
    given : dtype
        As in :func:`nearly_polar`.

    Notes
    -----
    By ``(A (B Bᵀ)^(-1/2)) B``: where ``A`` has fewer rows than ``B`` columns that is half the work of the
    factor and a product with it.
    """
    flat = _Flattening.of(wide.mT, _SMALL_OF_ROUNDED if given == torch.float32 else _SMALL)
    image = wide.mT @ flat.rest
    image -= wide.mT @ (flat.inverse @ (flat.inverse @ (wide @ image)))
    left, values, right = flat.weak(image, given)
    product = (matrix @ flat.inverse) @ wide
    return product.addmm_(matrix @ right.mT, left.mT), values


class _Flattening(NamedTuple):
    """What makes a polar factor of a tall matrix ``A``, ``[m, n]``, in float64.

    Attributes
    ----------
    inverse : Tensor
        ``(AᵀA)^(-1/2)`` on the strong directions, ``[n, n]``, and zero on the others.
    rest : Tensor
        The ``k`` weak right singular directions, ``[n, k]``.
    roots : Tensor
        The singular values of the strong ones, ``[n - k]``, descending.
    """

    inverse: Tensor
    rest: Tensor
    roots: Tensor

    @staticmethod
    def of(matrix: Tensor, small: float) -> "_Flattening":
        size = matrix.shape[1]
        if matrix.numel() == 0:
            return _Flattening(*(matrix.new_zeros(shape) for shape in ((size, size), (size, 0), (0,))))
        eigen = Eigen.of(gram(matrix))
        vectors, large = eigen.leading(size), _large(eigen.values, small)
        roots = eigen.values[:large].sqrt()
        inverse = mirrored(gram((vectors[:, :large] * roots.rsqrt()).mT))
        return _Flattening(inverse, vectors[:, large:], roots)

    def weak(self, image: Tensor, given: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """``L``, all singular values of ``A``, descending, and ``R`` of the weak directions' part ``L R``.

        ``image``, ``[m, k]``, is what ``A`` makes of them, less what the strong directions' factor meets.
        """
        if image.shape[1] == 0:
            return image, self.roots, self.rest.mT
        largest = float(self.roots[0]) if self.roots.numel() else 0.0
        left, values, right = small_part(image, largest, given)
        return left, torch.cat([self.roots, values]).sort(descending=True).values, right @ self.rest.mT


def _large(eigenvalues: Tensor, small: float) -> int:
    """How many of the descending eigenvalues of a Gram matrix are above ``small`` beside the largest."""
    if eigenvalues[0] <= 0:
        return 0
    return int((eigenvalues > small * eigenvalues[0]).sum())


def small_part(image: Tensor, largest: float, given: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, all singular values and ``Vᵀ`` of ``image``, ``[m, k]``; vectors of rounding noise are left out.

    ``image`` is what a matrix ``[m, n]`` of the given largest singular value makes of ``k`` directions. What
    rounding adds to the matrix is as random, so below ``eps`` beside that; products in float64 add no more
    than ``m`` times theirs.
    """
    left, values, right = torch.linalg.svd(image, full_matrices=False)
    noise = max(image.shape[0] * torch.finfo(image.dtype).eps, torch.finfo(given).eps)
    rank = int((values > largest * noise).sum())
    return left[:, :rank], values, right[:rank]
