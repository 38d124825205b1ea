"""Iso-CTS (Marczak et al., arXiv 2502.04959): a flat spectrum over common and task-specific directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esm_core.linalg import polar
from esm_core.methods import average, task_arithmetic, tsv_m

TITLE = "Iso-CTS"
COEFFICIENT = 1.0
"""No scaling; the authors tune it on validation data."""

COMMON_SHARE = 0.8
"""Of the directions, those of the summed update; the rest is the tasks' own, in equal parts."""


def merge_weight(updates: Sequence[Tensor]) -> Tensor:
    """Merge one weight: ``mean(σ) polar(U) polar(V)`` for matrices, the mean for the rest.

    ``U``, ``σ`` and ``V`` hold the leading singular vectors of the summed update, and beside them those of
    every task's update less its part in the common left vectors.

    Parameters
    ----------
    updates : sequence of Tensor
        The tasks' updates, one shape. Read one at a time, twice.

    Returns
    -------
    Tensor
        In float64, before the coefficient.
    """
    total = task_arithmetic.merge_weight(updates)
    if total.ndim != 2:
        return average.merge_weight(updates)
    common_rank, own_rank = kept_ranks(total.shape, len(updates))
    common = tsv_m.decompose(total, common_rank)
    parts = [common]
    for update in updates if own_rank else ():
        update = update.to(torch.float64)
        rest = update - common.left @ (common.left.mT @ update)
        parts.append(tsv_m.decompose(rest, own_rank))
    left, _ = polar(torch.cat([part.left for part in parts], dim=1))
    right, _ = polar(torch.cat([part.right for part in parts], dim=0))
    values = torch.cat([part.values for part in parts])
    return left @ right * values.mean() if len(values) else torch.zeros_like(total)


def kept_ranks(shape: Sequence[int], count: int) -> tuple[int, int]:
    """Common directions, and those of each of ``count`` tasks; together as many as the shorter side has."""
    side = min(shape)
    own = round((side - int(COMMON_SHARE * side)) / count)
    return side - own * count, own
