"""Where a spectrum ends and rounding noise begins."""

import torch
from torch import Tensor


def numerical_rank(values: Tensor, size: int) -> int:
    """How many of the descending ``values``, ``[k]``, stand above rounding noise of the first.

    ``values`` are singular values, or their squares; ``size`` is the largest dimension of the matrix.
    """
    if values.numel() == 0 or values[0] <= 0:
        return 0
    return int((values > values[0] * size * torch.finfo(values.dtype).eps).sum())
