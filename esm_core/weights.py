"""Reading the updates of a merge, lazily: one weight of one fine-tune at a time."""

from collections.abc import Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor

from esm_core.checkpoints import VisionCheckpoint, open_checkpoint, vision_checkpoint
from esm_core.layers import PROJECTION
from esm_core.storage import Location


def open_tower(location: Location) -> VisionCheckpoint:
    """The vision tower in a checkpoint, under open_clip's names; headers only are read."""
    return vision_checkpoint(open_checkpoint(location))


class Towers(NamedTuple):
    """The towers of a merge, headers read: the base and the fine-tunes in the plan's order."""

    base: VisionCheckpoint
    tuned: Sequence[VisionCheckpoint]


class Updates(Sequence[Tensor]):
    """The updates ``W_t - W0`` of one weight, one per fine-tune, in float64, read when asked for.

    Parameters
    ----------
    towers : Towers
    weight : str
        A ``visual.`` name.
    device : str
        Where the updates are put.
    """

    def __init__(self, towers: Towers, weight: str, device: str = "cpu") -> None:
        self._base = towers.base.read(weight).to(device=device, dtype=torch.float64)
        self._towers, self._weight, self._device = towers, weight, device

    def __len__(self) -> int:
        return len(self._towers.tuned)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tuned = read_weight(self._towers.tuned[index], self._towers.base, self._weight)
        return tuned.to(device=self._device, dtype=torch.float64) - self._base


def read_tower(tuned: VisionCheckpoint, base: VisionCheckpoint) -> dict[str, Tensor]:
    """Every weight of a fine-tune (or of the base itself), under the base's names and in its dtypes."""
    return {name: read_weight(tuned, base, name) for name in base.tensors}


def read_weight(tuned: VisionCheckpoint, base: VisionCheckpoint, weight: str) -> Tensor:
    """One weight of a fine-tune; the base's projection where the fine-tune's layout has none."""
    source = tuned if weight in tuned.tensors or weight != PROJECTION else base
    return source.read(weight)
