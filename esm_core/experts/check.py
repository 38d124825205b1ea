"""Whether a tower can have the experts a recipe asks for, from names and shapes alone."""

import math
from collections.abc import Iterator, Mapping

from esm_core.experts.names import small_parameters
from esm_core.layers import PROJECTION, SMALL_MATRICES, layer_kind
from esm_core.settings import ExpertSettings


def expert_weights_of(settings: ExpertSettings, weights: Mapping[str, object]) -> list[str]:
    """The weights of a tower that get low-rank experts, sorted."""
    small = SMALL_MATRICES if settings.extras else ()
    return sorted(name for name in weights if layer_kind(name) in settings.layers or name in small)


def map_shape(weight: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """``(d_out, d_in)`` of :func:`esm_core.experts.names.linear_map`."""
    flat = math.prod(shape[1:])
    return (flat, shape[0]) if weight == PROJECTION else (shape[0], flat)


def unfit_for_experts(settings: ExpertSettings, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """What stands against these experts on a tower of these weights; one line each."""
    sides = {w: min(map_shape(w, shapes[w])) for w in expert_weights_of(settings, shapes)}
    smallest = min(sides, key=lambda weight: sides[weight])
    if settings.rank > sides[smallest]:
        yield (
            f"experts.rank: {settings.rank} is above the smallest side of {smallest} {shapes[smallest]}; "
            f"use {sides[smallest]} or less."
        )
    if any(name.endswith("attn.logit_scale") for name in shapes):
        yield "experts: a tower with scaled cosine attention cannot be routed; leave experts out."


def expert_bytes(settings: ExpertSettings, shapes: Mapping[str, tuple[int, ...]], count: int) -> int:
    """What the experts of ``count`` tasks take, stored: ``T r (d_in + d_out)`` values per low-rank weight.

    The small parameters are held whole, ``T`` times; the router is not counted.
    """
    low_rank = sum(sum(map_shape(w, shapes[w])) for w in expert_weights_of(settings, shapes)) * settings.rank
    small = small_parameters(shapes) if settings.extras else []
    values = low_rank + sum(math.prod(shapes[name]) for name in small)
    return count * values * {"float32": 4, "float16": 2}[settings.dtype]
