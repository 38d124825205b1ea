"""Reading the updates of a merge, lazily: one weight of one fine-tune at a time."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from esm_core.checkpoints import VisionCheckpoint, open_checkpoint, vision_checkpoint
from esm_core.storage import Location

PROJECTION = "visual.proj"


def open_tower(location: Location) -> VisionCheckpoint:
    """The vision tower in a checkpoint, under open_clip's names; headers only are read."""
    return vision_checkpoint(open_checkpoint(location))


class Updates(Sequence[Tensor]):
    """The updates ``W_t - W0`` of one weight, one per fine-tune, in float64, read when asked for.

    Parameters
    ----------
    base : VisionCheckpoint
    tuned : sequence of VisionCheckpoint
    weight : str
        A ``visual.`` name.
    device : str
        Where the updates are put.
    """

    def __init__(
        self, base: VisionCheckpoint, tuned: Sequence[VisionCheckpoint], weight: str, device: str = "cpu"
    ) -> None:
        self._base = read_weight(base, base, weight).to(device=device, dtype=torch.float64)
        self._origin, self._tuned, self._weight, self._device = base, tuned, weight, device

    def __len__(self) -> int:
        return len(self._tuned)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tuned = read_weight(self._tuned[index], self._origin, self._weight)
        return tuned.to(device=self._device, dtype=torch.float64) - self._base


def read_weight(tuned: VisionCheckpoint, base: VisionCheckpoint, weight: str) -> Tensor:
    """One weight of a fine-tune; the base's projection where the fine-tune's layout has none."""
    source = tuned if weight in tuned.tensors or weight != PROJECTION else base
    return source.read(weight)
