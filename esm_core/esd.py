"""Essential Subspace Decomposition of one task's update of one layer (arXiv 2602.20208, section 3)."""

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
    The symmetric eigenproblem has the size ``min(m, d_out)``. Where the factor is the shorter side,
    a QR of the shift's transpose comes first, so the basis is orthonormal to rounding even for the
    smallest eigenvalues kept.
    """
    shift = inputs.factor.to(torch.float64) @ update.to(torch.float64).mT
    scale = 1.0 / max(inputs.rows - 1, 1)
    if shift.shape[0] < shift.shape[1]:
        orthonormal, triangle = torch.linalg.qr(shift.mT)
        eigenvalues, vectors = torch.linalg.eigh(triangle @ triangle.mT)
        vectors = orthonormal @ vectors
    else:
        eigenvalues, vectors = torch.linalg.eigh(shift.mT @ shift)
    eigenvalues = eigenvalues.flip(0)
    rank = numerical_rank(eigenvalues, max(shift.shape))
    return EssentialBasis(vectors.flip(1)[:, :rank], eigenvalues[:rank] * scale)


def coordinates(basis: Tensor, update: Tensor) -> Tensor:
    """``C = Eᵀ dW``, ``[k, d_in]`` float64, for ``basis`` ``[d_out, k]`` and ``update`` ``[d_out, d_in]``."""
    return basis.mT @ update.to(torch.float64)
