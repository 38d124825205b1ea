"""The published router: cosine similarity of the mean token with each task's prototype."""

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn
from torch.nn import functional


class Cosine(nn.Module):
    """Prototype routing, in every layer (arXiv 2606.19164).

    Parameters
    ----------
    prototypes : Tensor
        ``[T, d]``: mean input of the layer over all tokens and proxy images of each fine-tune.
    """

    prototypes: Tensor

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes.float())

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, d]`` → ``[B, T]``, in [-1, 1]."""
        pooled = functional.normalize(tokens.mean(dim=1), dim=-1)
        return pooled @ functional.normalize(self.prototypes, dim=-1).mT

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what an artifact holds."""
        return cls(tensors["prototypes"])
