"""A router that knows each task by the second moment of its tokens."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from esm_core.routing.routers.statistics import TokenStatistics, inner_products, inverse_and_log_det

RIDGE = 1e-4


class TokenGaussian(nn.Module):
    """Log density of an image's tokens under a zero-mean Gaussian per task, averaged over its tokens.

    With ``M_t`` a task's second moment, the score is ``-1/2 <M_t^-1, ZᵀZ> / L - 1/2 log det M_t``.

    Parameters
    ----------
    precision : Tensor
        ``M_t^-1``, ``[T, d, d]``.
    offset : Tensor
        ``-1/2 log det M_t``, ``[T]``.
    """

    precision: Tensor
    offset: Tensor

    def __init__(self, precision: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("precision", precision.float().contiguous())
        self.register_buffer("offset", offset.float())

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, d]`` → ``[B, T]``, natural logarithms per token up to a constant."""
        products = inner_products(self.precision, tokens.mT @ tokens)
        return self.offset - (0.5 / tokens.shape[1]) * products

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what an artifact holds."""
        return cls(tensors["precision"], tensors["offset"])

    @classmethod
    def fit(cls, tasks: Sequence[TokenStatistics]) -> dict[str, Tensor]:
        """What an artifact holds, from each task's proxies."""
        moments = torch.stack([task.second / task.tokens for task in tasks])
        precision, log_det = inverse_and_log_det(moments, RIDGE)
        return {"precision": precision.float(), "offset": (-0.5 * log_det).float()}
