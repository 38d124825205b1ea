"""The two matrix functions everything rests on: the polar factor and the numerical rank.

Both work in the dtype and on the device of their argument; callers pass float64.
"""

import torch
from torch import Tensor

_WELL_CONDITIONED = 1e-6
"""Smallest eigenvalue ratio of a Gram matrix for which the fast route below is as exact as an SVD."""


def numerical_rank(values: Tensor, size: int) -> int:
    """How many of the descending ``values``, ``[k]``, stand above rounding noise of the first.

    ``values`` are singular values, or their squares; ``size`` is the largest dimension of the matrix.
    """
    if values.numel() == 0 or values[0] <= 0:
        return 0
    return int((values > values[0] * size * torch.finfo(values.dtype).eps).sum())


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
    The fast route takes ``A (AᵀA)^(-1/2)`` through an eigenproblem of the smaller side and removes
    the error that squaring brings with Newton-Schulz steps. An ill-conditioned matrix takes an SVD.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = polar(matrix.mT)
        return factor.mT, values
    if matrix.numel() == 0:
        return matrix.clone(), matrix.new_zeros(0)
    eigenvalues, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    if eigenvalues[0] > _WELL_CONDITIONED * eigenvalues[-1]:
        factor = matrix @ (vectors * eigenvalues.rsqrt()) @ vectors.mT
        identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        for _ in range(2):
            factor = factor @ (1.5 * identity - 0.5 * (factor.mT @ factor))
        return factor, eigenvalues.sqrt().flip(0)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = numerical_rank(values, max(matrix.shape))
    return left[:, :rank] @ right[:rank], values
