"""Iso-C (Marczak et al., arXiv 2502.04959): the summed update with a flat singular spectrum."""

from collections.abc import Sequence

from torch import Tensor

from esm_core.linalg import polar
from esm_core.methods import average, task_arithmetic

TITLE = "Iso-C"
COEFFICIENT = 1.0
"""No scaling; the authors tune it on validation data."""


def merge_weight(updates: Sequence[Tensor]) -> Tensor:
    """Merge one weight: ``mean(σ) U Vᵀ`` of the summed update for matrices, the mean for the rest.

    Parameters
    ----------
    updates : sequence of Tensor
        The tasks' updates, one shape. Read one at a time.

    Returns
    -------
    Tensor
        In float64, before the coefficient.
    """
    total = task_arithmetic.merge_weight(updates)
    if total.ndim != 2:
        return average.merge_weight(updates)
    factor, values = polar(total)
    return factor * values.mean()
