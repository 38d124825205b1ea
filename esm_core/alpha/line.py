"""The merged towers of every α, as a line: W(α) = origin + α · direction, written once per merge.

Trying a value of α then takes two files read in order instead of the arrays of every merged weight.
"""

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from esm_core.alpha.files import line_folder
from esm_core.checkpoints import SafetensorsFile, TensorInfo, write_safetensors
from esm_core.errors import IntegrityError
from esm_core.layer_merges import open_towers, read_update, update_norms
from esm_core.methods.esm import layer_scales
from esm_core.plan import Plan
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.static import merged_weight
from esm_core.storage import Location
from esm_core.unchanged import unchanged

_FILES = ("origin.safetensors", "direction.safetensors")


def write_line(plan: Plan) -> Location:
    """Write the line of a plan's merge; at once where it is already there. Holds one weight at a time.

    ``origin.safetensors`` is the vision tower at α = 0, ``direction.safetensors`` holds ``β_l M_l`` of
    every essential weight (arXiv 2602.20208); both float32, for forward passes only. The published
    weights are made in float64, by :func:`esm_core.static.finish`.

    Raises
    ------
    IntegrityError
        A merged weight is damaged.
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = line_folder(plan)
    if is_complete(folder):
        return folder
    scales = layer_scales(update_norms(plan), plan.recipe.method)
    checksums: dict[str, dict[str, int]] = {name: {} for name in _FILES}

    def write(file: str, tensors: dict[str, TensorInfo], compute: Callable[[str], Tensor]) -> None:
        def read(name: str) -> Tensor:
            tensor = compute(name).to(torch.float32)
            checksums[file][name] = _checksum(tensor)
            return tensor

        write_safetensors(folder / file, tensors, read)

    origin, direction = _FILES
    with unchanged(plan):
        towers = open_towers(plan)
        shapes = {n: TensorInfo(info.shape, torch.float32) for n, info in sorted(towers.base.tensors.items())}
        essential = {name: info for name, info in shapes.items() if plan.rules[name] == "essential"}
        write(origin, shapes, lambda name: merged_weight(plan, towers, name, scales, 0.0, torch.float32))
        write(direction, essential, lambda name: read_update(plan, name).to(torch.float64) * scales[name])
    write_marker(folder, {"checksums": checksums})
    return folder


def tower_at(plan: Plan, alpha: float) -> dict[str, Tensor]:
    """The vision tower at ``alpha``: names with ``visual.`` → float32 tensors, every checksum verified.

    Raises
    ------
    IntegrityError
        A file of the line is damaged.
    """
    folder = line_folder(plan)
    checksums = read_marker(folder)["checksums"]
    origin, direction = (_Verified(folder / file, checksums[file]) for file in _FILES)
    return {
        name: origin.read(name).add_(direction.read(name), alpha=alpha)
        if name in direction.checksums
        else origin.read(name)
        for name in origin.checksums
    }


class _Verified:
    """A file of the line whose tensors are compared with the checksums in the marker."""

    def __init__(self, location: Location, checksums: dict[str, int]) -> None:
        self._file, self.checksums = SafetensorsFile(location), checksums

    def read(self, name: str) -> Tensor:
        tensor = self._file.read(name)
        if _checksum(tensor) != self.checksums[name]:
            where = self._file.location
            raise IntegrityError(
                f"{where}: {name} is damaged. Delete the folder {where.parent} and run again."
            )
        return tensor


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
