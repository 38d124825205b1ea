"""Essential Subspace Decomposition of one task's update of one layer (arXiv 2602.20208)."""

from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.factor import InputFactor, ShiftFactor
from esm_core.linalg import numerical_rank


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
    """One task's update of one layer, as far as a fusion needs it; float64, on the update's device.

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
    """
    basis, eigenvalues = essential_basis(update, inputs)
    full = coordinates(basis, update)
    kept = min(rank, eigenvalues.numel())
    return Decomposition(basis[:, :kept], full[:kept], eigenvalues, full.norm())


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
