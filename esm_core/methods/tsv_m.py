"""TSV-M (Gargiulo et al., arXiv 2412.00081): merging by whitened task singular vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.linalg import Eigen, gram, nearly_polar, numerical_rank
from esm_core.methods import average

TITLE = "TSV-M"
COEFFICIENT = 1.0

_WEAKEST = 1e-10
"""Energy of a singular vector, beside the strongest, above which a Gram matrix still tells it well."""


class SingularPart(NamedTuple):
    """The leading singular vectors of one task's update, float64 where they are made, on its device.

    Attributes
    ----------
    left : Tensor
        ``[m, r]``, orthonormal columns.
    values : Tensor
        ``[r]``, descending.
    right : Tensor
        ``[r, n]``, orthonormal rows.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def merge_weight(updates: Sequence[Tensor], rank: int | None = None) -> Tensor:
    """Merge one weight: matrices by whitened singular vectors, everything else by the mean.

    Parameters
    ----------
    updates : sequence of Tensor
        The tasks' updates, one shape. Read one at a time.
    rank : int, optional
        Singular vectors kept per task; :func:`kept_rank` where not given.

    Returns
    -------
    Tensor
        ``polar(U) diag(S) polar(V)ᵀ`` in float64, for the concatenated, truncated factors.
    """
    parts = []
    for update in updates:
        if update.ndim != 2:
            return average.merge_weight(updates)
        parts.append(decompose(update, rank or kept_rank(update.shape, len(updates))))
    return fuse(parts)


def kept_rank(shape: Sequence[int], count: int) -> int:
    """Singular vectors kept of each of ``count`` tasks: ``floor(min(shape) / count)``, at least 1."""
    return max(1, min(shape) // count)


def decompose(update: Tensor, rank: int) -> SingularPart:
    """The first ``rank`` singular vectors of an update ``[m, n]``: no more than its numerical rank.

    Through the eigenproblem of the Gram matrix of the shorter side, unless that tells the last of them
    badly: then an SVD.
    """
    update = update.to(torch.float64)
    if update.shape[0] > update.shape[1]:
        right, values, left = decompose(update.mT, rank)
        return SingularPart(left.mT, values, right.mT)
    eigen = Eigen.of(gram(update.mT))
    kept = min(rank, numerical_rank(eigen.values, max(update.shape)))
    if kept == 0 or eigen.values[kept - 1] < _WEAKEST * eigen.values[0]:
        left, values, right = torch.linalg.svd(update, full_matrices=False)
        kept = min(rank, numerical_rank(values, max(update.shape)))
        return SingularPart(left[:, :kept], values[:kept], right[:kept])
    values, left = eigen.values[:kept].sqrt(), eigen.leading(kept)
    return SingularPart(left, values, (left / values).mT @ update)


def fuse(parts: Sequence[SingularPart]) -> Tensor:
    """``polar(U) diag(S) polar(V)ᵀ``, ``[m, n]``, of the tasks' parts put side by side."""
    left = torch.cat([part.left for part in parts], dim=1)
    right = torch.cat([part.right for part in parts], dim=0)
    whitened_left, _ = nearly_polar(left.to(torch.float64), left.dtype)
    whitened_right, _ = nearly_polar(right.to(torch.float64), right.dtype)
    return (whitened_left * torch.cat([part.values for part in parts])) @ whitened_right
