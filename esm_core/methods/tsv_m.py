"""TSV-M (Gargiulo et al., arXiv 2412.00081): merging by whitened task singular vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esm_core.linalg import numerical_rank, polar
from esm_core.methods import average

COEFFICIENT = 1.0


def merge_weight(updates: Sequence[Tensor], rank: int | None = None) -> Tensor:
    """Merge one weight: matrices by whitened singular vectors, everything else by the mean.

    Parameters
    ----------
    updates : sequence of Tensor
        The tasks' updates, one shape. Read one at a time.
    rank : int, optional
        Singular vectors kept per task; ``floor(min(shape) / T)``, at least 1, where not given.

    Returns
    -------
    Tensor
        ``polar(U) diag(S) polar(V)ᵀ`` in float64, for the concatenated, truncated factors.
    """
    count = len(updates)
    lefts, values, rights = [], [], []
    for update in updates:
        if update.ndim != 2:
            return average.merge_weight(updates)
        left, value, right = torch.linalg.svd(update.to(torch.float64), full_matrices=False)
        kept = rank if rank is not None else max(1, min(update.shape) // count)
        kept = min(kept, numerical_rank(value, max(update.shape)))
        lefts.append(left[:, :kept])
        values.append(value[:kept])
        rights.append(right[:kept])
    whitened_left, _ = polar(torch.cat(lefts, dim=1))
    whitened_right, _ = polar(torch.cat(rights, dim=0))
    return (whitened_left * torch.cat(values)) @ whitened_right
