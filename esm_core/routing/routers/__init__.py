"""Routers: each scores a sample's tokens against every task; one small module each.

A router is fitted on tokens of the merged model and kept as named tensors in ``experts.safetensors``.
"""

from typing import Protocol

from torch import Tensor, nn

from esm_core.routing.routers.cosine import Cosine
from esm_core.routing.routers.token_gaussian import TokenGaussian


class Router(Protocol):
    """What a class of routers has."""

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> nn.Module:
        """A scorer: tokens ``[B, L, d]`` float32 → scores ``[B, T]``, higher is better."""


ROUTERS: dict[str, type[Cosine] | type[TokenGaussian]] = {"cosine": Cosine, "token_gaussian": TokenGaussian}
