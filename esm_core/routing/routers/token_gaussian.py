"""A router that knows each task by the second moment of its tokens."""

from typing import Self

import torch
from torch import Tensor, nn

RIDGE = 1e-4
"""Share of the mean eigenvalue that is added to a moment, so that it has an inverse."""


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
        self.register_buffer("precision", precision.float())
        self.register_buffer("offset", offset.float())

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, d]`` → ``[B, T]``, natural logarithms per token up to a constant."""
        moments = (tokens.mT @ tokens).flatten(1) / tokens.shape[1]
        return self.offset - 0.5 * (moments @ self.precision.flatten(1).mT)

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> Self:
        """From what an artifact holds."""
        return cls(tensors["precision"], tensors["offset"])


def fit_gaussians(moments: Tensor) -> dict[str, Tensor]:
    """The tensors of a :class:`TokenGaussian` from second moments ``[T, d, d]``, float64."""
    width = moments.shape[-1]
    trace = moments.diagonal(dim1=1, dim2=2).mean(dim=1)
    full = moments + RIDGE * trace[:, None, None] * torch.eye(
        width, dtype=moments.dtype, device=moments.device
    )
    return {"precision": torch.linalg.inv(full), "offset": -0.5 * torch.linalg.slogdet(full).logabsdet}
