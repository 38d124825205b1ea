"""What collection stores and needs, from shapes alone."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from esm_core.collected import Kept, kept_of
from esm_core.experts.check import map_shape
from esm_core.factor import block_rows
from esm_core.layers import CONV, PROJECTION
from esm_core.recipe import Recipe

Shapes = Mapping[str, tuple[int, ...]]

_SINGLE, _DOUBLE = 4, 8

_QR = 3.4
"""Operations per row and squared width: 2 of a QR, a sixth more for blocks, at 0.7 of a product's rate."""


class CollectionCost(NamedTuple):
    """Of one fine-tune: bytes in the store, float64 operations without the forward pass, bytes of memory."""

    stored: float
    flops: float
    memory: float


class _Factor(NamedTuple):
    rows: int
    width: int
    bytes_per_value: int
    """Of a row that waits, or is kept as it came."""

    @property
    def stored(self) -> int:
        if self.rows <= self.width:
            return self.bytes_per_value * self.rows * self.width
        return _DOUBLE * (self.width * (self.width + 1) // 2)

    def held(self, in_one_batch: bool) -> int:
        block = block_rows(self.width)
        full = self.rows // block
        waiting = self.rows % block if in_one_batch or not full else block
        triangle = _DOUBLE * (self.width * (self.width + 1) // 2) if full else 0
        return triangle + self.bytes_per_value * waiting * self.width

    @property
    def folding(self) -> int:
        """Memory of the largest QR: its matrix and LAPACK's copy."""
        if self.rows <= self.width:
            return _DOUBLE * self.rows * self.width
        return 2 * _DOUBLE * min(self.rows, self.width + block_rows(self.width)) * self.width


def collection_cost(recipe: Recipe, shapes: Shapes) -> CollectionCost:
    """What is collected of one fine-tune for the merge and, where the recipe asks for them, its experts.

    Parameters
    ----------
    shapes : mapping
        Name (with ``visual.``) → shape of every tensor of the tower.
    """
    factors = list(_factors(recipe, shapes))
    products = [map_shape(w, shapes[w]) for kept in _kept(recipe, shapes) for w in kept.shifts]
    tokens = _tokens(recipe, shapes)
    flops = sum(_QR * f.rows * f.width**2 for f in factors if f.rows > f.width)
    flops += sum(2.0 * tokens * d_out * d_in for d_out, d_in in products)
    # The tower, and the base's weights of the layers whose shifts are kept.
    weights = _SINGLE * sum(math.prod(shape) for shape in shapes.values())
    weights += _SINGLE * sum(d_out * d_in for d_out, d_in in products)
    batch = min(recipe.samples, recipe.collect.batch_size)
    in_one_batch = batch == recipe.samples
    # What was measured of a forward pass: four times the widest activations of a batch.
    activations = 4 * _SINGLE * batch * _positions(shapes) * max(d_in for _, d_in in products)
    memory = weights + activations + sum(f.held(in_one_batch) for f in factors)
    memory += max(f.folding for f in factors)
    return CollectionCost(float(sum(f.stored for f in factors)), flops, float(memory))


def _factors(recipe: Recipe, shapes: Shapes) -> Iterator[_Factor]:
    own = _DOUBLE if recipe.collect.precision == "float64" else _SINGLE
    tokens = _tokens(recipe, shapes)
    for kept in _kept(recipe, shapes):
        for weight in kept.inputs:
            # The projection sees pooled tokens only, conv1 no class token, and pixels in float32.
            rows = {PROJECTION: recipe.samples, CONV: tokens - recipe.samples}.get(weight, tokens)
            size = _SINGLE if weight == CONV else own
            yield _Factor(rows, map_shape(weight, shapes[weight])[1], size)
        for weight in kept.shifts:
            yield _Factor(tokens, shapes[weight][0], _DOUBLE)


def _kept(recipe: Recipe, shapes: Shapes) -> list[Kept]:
    return list(kept_of(shapes, recipe.experts).values())


def _tokens(recipe: Recipe, shapes: Shapes) -> int:
    return recipe.samples * _positions(shapes)


def _positions(shapes: Shapes) -> int:
    return shapes["visual.positional_embedding"][0]
