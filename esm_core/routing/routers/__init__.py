"""Routers: each scores a sample's tokens against every task; one small module each.

A router is a module from tokens ``[B, L, d]`` float32 to scores ``[B, T]``, higher is better, made by
``load`` from the named tensors an artifact holds. Those that decide once per image have ``fit``.
"""

from esm_core.routing.routers.cosine import Cosine
from esm_core.routing.routers.token_gaussian import TokenGaussian
from esm_core.routing.routers.token_moments import TokenMoments

PER_IMAGE: dict[str, type[TokenGaussian] | type[TokenMoments]] = {
    "token_gaussian": TokenGaussian,
    "token_moments": TokenMoments,
}
"""Decide once per image, on the first layer's inputs in the static model."""

ROUTERS: dict[str, type[Cosine] | type[TokenGaussian] | type[TokenMoments]] = {"cosine": Cosine, **PER_IMAGE}
