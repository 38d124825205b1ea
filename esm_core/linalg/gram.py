"""``AᵀA`` at half the work."""

import torch
from torch import Tensor

from esm_core.linalg import lapack


def gram(matrix: Tensor) -> Tensor:
    """``AᵀA``, ``[n, n]``, of ``A``, ``[m, n]``: its upper triangle; what lies below is not promised."""
    if on_lapack(matrix):
        by_rows = matrix.is_contiguous() or not matrix.mT.is_contiguous()
        return lapack.symmetric_product(matrix.contiguous() if by_rows else matrix)
    return matrix.mT @ matrix


def mirrored(product: Tensor) -> Tensor:
    """The whole symmetric matrix, of one whose upper triangle is known."""
    upper = product.triu()
    return upper + upper.triu(1).mT


def on_lapack(matrix: Tensor) -> bool:
    """Whether :mod:`esm_core.linalg.lapack` can work on it; elsewhere torch does."""
    return matrix.device.type == "cpu" and matrix.dtype in (torch.float32, torch.float64)
