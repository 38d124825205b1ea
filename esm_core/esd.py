"""Essential Subspace Decomposition of one task's update of one layer (arXiv 2602.20208)."""

from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.factor import InputFactor
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


def essential_basis(update: Tensor, inputs: InputFactor) -> EssentialBasis:
    """Uncentred PCA of the activation shift ``X dWᵀ``, through the factor of ``X``.

    Columns beyond the numerical rank are left out: they would be arbitrary directions.

    Parameters
    ----------
    update : Tensor
        ``dW``, ``[d_out, d_in]``.
    inputs : InputFactor
        ``factor`` ``[m, d_in]`` on the same device.

    Returns
    -------
    EssentialBasis

    Notes
    -----
    A QR takes the shift to its shorter side, then an SVD of that size: no Gram matrix, which would lose
    digits of the small directions. Rank is judged on energies (squares), so it ends about where float32
    activations do, and by the rows of the raw inputs, so it does not depend on whether they come compressed.
    """
    shift = inputs.factor.to(torch.float64) @ update.to(torch.float64).mT
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
