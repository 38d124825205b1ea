"""What routers are fitted on: sums over the tokens of a task's proxies, which add up over parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStatistics:
    """Sums over ``n`` images of ``L`` tokens ``z`` of width ``d``; float64.

    Attributes
    ----------
    second : Tensor
        ``[d, d]``: sum of ``z zᵀ`` over tokens and images.
    first : Tensor
        ``[L, d]``: sum over images, by position.
    features : Tensor
        ``[n, 2 d]``: :func:`image_features` of every image.
    """

    second: Tensor
    first: Tensor
    features: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Self:
        """The statistics of ``tokens`` ``[n, L, d]``."""
        tokens = tokens.to(torch.float64)
        rows = tokens.flatten(0, 1)
        return cls(rows.mT @ rows, tokens.sum(dim=0), image_features(tokens))

    def __add__(self, other: Self) -> Self:
        features = torch.cat([self.features, other.features])
        return type(self)(self.second + other.second, self.first + other.first, features)

    @property
    def tokens(self) -> int:
        """How many tokens were summed."""
        return len(self.features) * len(self.first)


def total(parts: Iterable[TokenStatistics]) -> TokenStatistics:
    """The statistics of all parts together."""
    return reduce(lambda left, right: left + right, parts)


def image_features(tokens: Tensor) -> Tensor:
    """Mean and standard deviation over an image's tokens: ``[B, L, d]`` → ``[B, 2 d]``."""
    mean = tokens.mean(dim=1)
    # tokens.std(dim=1) is the same, over ten times slower on a CPU.
    variance = (tokens - mean[:, None]).square_().sum(dim=1) / (tokens.shape[1] - 1)
    return torch.cat([mean, variance.sqrt()], dim=1)


def inner_products(tasks: Tensor, samples: Tensor) -> Tensor:
    """``<tasks_t, samples_b>``: ``[T, ...]`` and ``[B, ...]`` → ``[B, T]``."""
    # In this order: the other reads what is large, the tasks' tensors, less well.
    return (tasks.flatten(1) @ samples.flatten(1).mT).mT


def inverse_and_log_det(matrices: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """``[T, d, d]`` and ``[T]``, of positive matrices plus ``ridge`` times their mean eigenvalue."""
    mean = matrices.diagonal(dim1=1, dim2=2).mean(dim=1)
    full = matrices + ridge * mean[:, None, None] * torch.eye(matrices.shape[-1]).to(matrices)
    return torch.linalg.inv(full), torch.linalg.slogdet(full).logabsdet
