"""Bands of matrices that are known."""

import torch
from torch import Tensor

from esm_core.linalg.band import Band


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers, float64, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(band: Band) -> Tensor:
    """``B``, ``[n, n]``."""
    eye = torch.eye(band.size, dtype=torch.float64)
    return band.plain(band.times(band.blocked(eye)))


def with_spectrum(values: Tensor) -> Tensor:
    """A symmetric matrix of these eigenvalues."""
    turn = torch.linalg.qr(normal(values.numel(), values.numel())).Q
    matrix = (turn * values) @ turn.mT
    return (matrix + matrix.mT) / 2
