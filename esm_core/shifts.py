"""The shift store: what collection leaves of one fine-tune, one subgroup per target layer.

``factor`` is ``[n, d]`` where the layer has few rows, else the upper triangle, packed row by row. It is in
float32 where that loses nothing: the raw rows of a forward pass in float32 or less. ``means`` holds the mean
inputs of all layers, one after the other: small arrays of their own would be most of a store's objects.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esm_core.arrays import Array, read_array, write_arrays
from esm_core.collect import CollectedLayer
from esm_core.errors import IntegrityError
from esm_core.factor import InputFactor, ShiftFactor, pack, unpack
from esm_core.stages import read_marker, write_marker
from esm_core.storage import Location

Layer = CollectedLayer | ShiftFactor


def write_shifts(folder: Location, layers: Iterable[tuple[str, Layer]], lineage: Mapping[str, Any]) -> None:
    """Write every layer, then the marker: row counts, places in ``means``, and ``lineage``.

    Parameters
    ----------
    layers : iterable of (weight, CollectedLayer or ShiftFactor)
        Taken one at a time and let go.
    """
    rows: dict[str, int] = {}
    means: dict[str, Tensor] = {}

    def arrays() -> Iterator[tuple[str, Array]]:
        for weight, layer in layers:
            if isinstance(layer, CollectedLayer):
                means[weight] = layer.mean.cpu()
            factor = layer.inputs if isinstance(layer, CollectedLayer) else layer
            rows[weight] = factor.rows
            yield f"{weight}/factor", _stored(factor.factor)
        if means:
            yield "means", torch.cat(list(means.values())).numpy()

    write_arrays(folder, arrays())
    bounds = [0, *accumulate(mean.numel() for mean in means.values())]
    places = dict(zip(means, pairwise(bounds), strict=True))
    write_marker(folder, {"rows": rows, "means": places, "lineage": dict(lineage)})


def read_factor(folder: Location, weight: str, device: str = "cpu") -> InputFactor | ShiftFactor:
    """One layer's factor (float64), every chunk's checksum verified.

    Raises
    ------
    IntegrityError
        A chunk or the marker is damaged, or the layer was never collected.
    """
    facts = read_marker(folder)
    if weight not in facts["rows"]:
        raise _missing(folder, weight)
    stored = torch.from_numpy(read_array(folder, f"{weight}/factor")).to(device)
    factor = unpack(stored) if stored.ndim == 1 else stored
    kind = InputFactor if weight in facts["means"] else ShiftFactor
    return kind(factor, int(facts["rows"][weight]))


def read_inputs(folder: Location, weight: str, device: str = "cpu") -> InputFactor:
    """The factor of one layer's inputs, as :func:`read_factor`."""
    factor = read_factor(folder, weight, device)
    if isinstance(factor, ShiftFactor):
        raise _missing(folder, weight)
    return factor


def read_mean(folder: Location, weight: str) -> Tensor:
    """One layer's mean input, ``[d_in]`` float64, checksums verified.

    Raises
    ------
    IntegrityError
        A chunk or the marker is damaged, or the layer's inputs were never collected.
    """
    facts = read_marker(folder)
    if weight not in facts["means"]:
        raise _missing(folder, weight)
    return torch.from_numpy(read_array(folder, "means")[slice(*facts["means"][weight])])


def _stored(factor: Tensor) -> Array:
    square = factor.shape[0] == factor.shape[1]
    values = (pack(factor) if square and torch.equal(factor, factor.triu()) else factor).cpu().numpy()
    with np.errstate(over="ignore", under="ignore"):
        single = values.astype(np.float32)
    exact: bool = np.array_equal(single, values)
    return single if exact else values


def _missing(folder: Location, weight: str) -> IntegrityError:
    return IntegrityError(
        f"{folder}: holds no inputs of {weight}. Delete it and run again: the collect stage redoes it."
    )
