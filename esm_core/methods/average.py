"""Weight averaging: the mean update.

Also what every method here does with vectors and convolutions.
"""

from collections.abc import Sequence

from torch import Tensor

from esm_core.methods import task_arithmetic

TITLE = "Average"
COEFFICIENT = 1.0


def merge_weight(updates: Sequence[Tensor]) -> Tensor:
    """Mean of the tasks' updates of one weight (any shape), in float64, before the coefficient."""
    return task_arithmetic.merge_weight(updates) / len(updates)
