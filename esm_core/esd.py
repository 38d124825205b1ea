"""Essential Subspace Decomposition of one task's update of one layer (arXiv 2602.20208)."""

from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.factor import InputFactor, ShiftFactor, compress
from esm_core.linalg import Eigen, gram, mirrored, numerical_rank


class EssentialBasis(NamedTuple):
    """Principal directions of an activation shift.

    Attributes
    ----------
    basis : Tensor
        ``E``, ``[d_out, k]``, orthonormal columns, float64; ``k`` is the shift's numerical rank.
    eigenvalues : Tensor
        ``[k]``, descending: ``sigma_i² / (n - 1)`` of the shift (uncentred), float64.
    """

    basis: Tensor
    eigenvalues: Tensor


class Decomposition(NamedTuple):
    """One task's update of one layer, as far as a fusion needs it; float64 where it is made, on its device.

    Attributes
    ----------
    basis : Tensor
        ``Ê``, ``[d_out, r]``: the first ``r`` essential directions.
    coordinates : Tensor
        ``Ĉ = Êᵀ dW``, ``[r, d_in]``.
    eigenvalues : Tensor
        ``[k]``, all of them, descending; ``k >= r`` is the shift's numerical rank.
    norm : Tensor
        ``‖dW‖_F`` of the untruncated coordinates ``Eᵀ dW``, no dimension.
    """

    basis: Tensor
    coordinates: Tensor
    eigenvalues: Tensor
    norm: Tensor


def decompose_update(update: Tensor, inputs: InputFactor | ShiftFactor, rank: int) -> Decomposition:
    """Decompose one update and keep at most ``rank`` directions: no more than the shift's numerical rank.

    Parameters
    ----------
    update : Tensor
        ``dW``, ``[d_out, d_in]``.
    inputs : InputFactor or ShiftFactor
        Of this task and layer, on the same device.
    rank : int

    Notes
    -----
    As :func:`essential_basis`, but through the eigenproblem of a Gram matrix of the shift's shorter side:
    a fraction of the work, and it loses the digits of weak directions. Where one of those that are kept
    is too weak for that, :func:`essential_basis` is what is returned.
    """
    update = update.to(torch.float64)
    found = _through_gram(update, inputs, rank)
    if found is None:
        basis, eigenvalues = essential_basis(update, inputs)
        full = coordinates(basis, update)
        kept = min(rank, eigenvalues.numel())
        found = Decomposition(basis[:, :kept], full[:kept], eigenvalues, full.norm())
    return found


def essential_basis(update: Tensor, inputs: InputFactor | ShiftFactor) -> EssentialBasis:
    """Uncentred PCA of the activation shift ``X dWᵀ``, through the factor of ``X``.

    Columns beyond the numerical rank are left out: they would be arbitrary directions.

    Parameters
    ----------
    update : Tensor
        ``dW``, ``[d_out, d_in]``.
    inputs : InputFactor or ShiftFactor
        On the same device.

    Returns
    -------
    EssentialBasis

    Notes
    -----
    A QR takes the shift to its shorter side, then an SVD of that size: no Gram matrix, which would lose
    digits of the small directions. Rank is judged on energies (squares), so it ends about where float32
    activations do, and by the rows of the raw inputs, so it does not depend on whether they come compressed.
    """
    shift = inputs.factor.to(torch.float64)
    if isinstance(inputs, InputFactor):
        shift = shift @ update.to(torch.float64).mT
    if shift.shape[0] < shift.shape[1]:
        orthonormal, triangle = torch.linalg.qr(shift.mT)
        left, values, _ = torch.linalg.svd(triangle)
        vectors = orthonormal @ left
    else:
        _, values, right = torch.linalg.svd(torch.linalg.qr(shift, mode="r").R)
        vectors = right.mT
    energies = values.square()
    rank = numerical_rank(energies, max(inputs.rows, shift.shape[1]))
    return EssentialBasis(vectors[:, :rank], energies[:rank] / max(inputs.rows - 1, 1))


def coordinates(basis: Tensor, update: Tensor) -> Tensor:
    """``C = Eᵀ dW``, ``[k, d_in]`` float64, for ``basis`` ``[d_out, k]`` and ``update`` ``[d_out, d_in]``."""
    return basis.mT @ update.to(torch.float64)


_WEAKEST = 1e-10
"""Energy of a direction, beside the strongest, above which a Gram matrix still tells it well: to 1e-6."""


def _through_gram(update: Tensor, inputs: InputFactor | ShiftFactor, rank: int) -> Decomposition | None:
    """:func:`decompose_update` by eigenproblem, or None where a direction is too weak for it."""
    factor = inputs.factor.to(torch.float64)
    if isinstance(inputs, InputFactor):
        factor = compress(factor)
        if update.shape[1] <= min(factor.shape[0], update.shape[0]):
            return _by_inputs(update, factor, inputs.rows, rank)
        factor = factor @ update.mT
    return _by_shift(update, factor, inputs.rows, rank)


def _by_inputs(update: Tensor, factor: Tensor, rows: int, rank: int) -> Decomposition | None:
    """For ``d_out >= d_in``: ``S Sᵀ = R (dWᵀdW) Rᵀ`` and ``E = dW Rᵀ U Λ^(-1/2)``; ``S`` is never made."""
    seen = factor @ mirrored(gram(update))
    eigen = Eigen.of(seen @ factor.mT)
    kept = _kept(eigen, update, rows, rank)
    if kept is None:
        return None
    left = eigen.leading(kept.wanted) / eigen.values[: kept.wanted].sqrt()
    basis = update @ (factor.mT @ left[:, : kept.rank])
    return _truncated(update, eigen, kept, rows, basis, left.mT @ seen)


def _by_shift(update: Tensor, shift: Tensor, rows: int, rank: int) -> Decomposition | None:
    """From the shift ``S`` ``[m, d_out]`` itself: ``SᵀS`` where it has the rows, else ``S Sᵀ``."""
    short = shift.shape[0] < shift.shape[1]
    eigen = Eigen.of(gram(shift.mT if short else shift))
    kept = _kept(eigen, update, rows, rank)
    if kept is None:
        return None
    vectors = eigen.leading(kept.wanted)
    if short:
        vectors = shift.mT @ (vectors / eigen.values[: kept.wanted].sqrt())
    return _truncated(update, eigen, kept, rows, vectors, vectors.mT @ update)


class _Kept(NamedTuple):
    """Directions that are kept, the shift's numerical rank, and whether that is all there can be."""

    rank: int
    whole: int
    complete: bool

    @property
    def wanted(self) -> int:
        """Vectors that are needed: all, where the norm of the untruncated coordinates is not the update's."""
        return self.rank if self.complete else self.whole


def _kept(eigen: Eigen, update: Tensor, rows: int, rank: int) -> _Kept | None:
    """What is kept of a spectrum; None where the last that is kept is too weak."""
    whole = numerical_rank(eigen.values, max(rows, update.shape[0]))
    strong = min(rank, whole)
    if strong and eigen.values[strong - 1] < _WEAKEST * eigen.values[0]:
        return None
    return _Kept(strong, whole, whole == min(update.shape))


def _truncated(
    update: Tensor, eigen: Eigen, kept: _Kept, rows: int, basis: Tensor, full: Tensor
) -> Decomposition:
    eigenvalues = eigen.values[: kept.whole] / max(rows - 1, 1)
    norm = update.norm() if kept.complete else full.norm()
    return Decomposition(basis[:, : kept.rank], full[: kept.rank], eigenvalues, norm)
