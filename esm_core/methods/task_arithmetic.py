"""Task Arithmetic (Ilharco et al., arXiv 2212.04089): the scaled sum of the task vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

TITLE = "Task Arithmetic"
COEFFICIENT = 0.3
"""A value in common use for eight vision tasks; the authors tune it on validation data."""


def merge_weight(updates: Sequence[Tensor]) -> Tensor:
    """Sum of the tasks' updates of one weight (any shape), in float64, before the coefficient.

    Read one at a time, so only two tensors are in memory.
    """
    total = updates[0].to(torch.float64)
    for index in range(1, len(updates)):
        total = total + updates[index]
    return total
