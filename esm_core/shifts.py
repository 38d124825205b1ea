"""The shift store: what collection leaves of one fine-tune, one subgroup per target layer."""

from collections.abc import Mapping
from typing import Any

import torch

from esm_core.arrays import read_array, write_arrays
from esm_core.collect import CollectedLayer
from esm_core.errors import IntegrityError
from esm_core.factor import InputFactor
from esm_core.stages import read_marker, write_marker
from esm_core.storage import Location


def write_shifts(folder: Location, layers: Mapping[str, CollectedLayer], lineage: Mapping[str, Any]) -> None:
    """Write every layer's factor and mean, then the marker with row counts and ``lineage``."""
    arrays = {}
    for weight, layer in layers.items():
        arrays[f"{weight}/factor"] = layer.inputs.factor.cpu().numpy()
        arrays[f"{weight}/mean"] = layer.mean.cpu().numpy()
    write_arrays(folder, arrays)
    rows = {weight: layer.inputs.rows for weight, layer in layers.items()}
    write_marker(folder, {"rows": rows, "lineage": dict(lineage)})


def read_shift(folder: Location, weight: str, device: str = "cpu") -> CollectedLayer:
    """One layer's compressed inputs (float64), every chunk's checksum verified.

    Raises
    ------
    IntegrityError
        A chunk or the marker is damaged, or the layer was never collected.
    """
    rows = read_marker(folder)["rows"]
    if weight not in rows:
        raise IntegrityError(
            f"{folder}: holds no inputs of {weight}. Delete it and run again: the collect stage redoes it."
        )
    factor = torch.from_numpy(read_array(folder, f"{weight}/factor")).to(device)
    mean = torch.from_numpy(read_array(folder, f"{weight}/mean")).to(device)
    return CollectedLayer(InputFactor(factor, int(rows[weight])), mean)
