"""A checkpoint under other names: each tensor made of one or more tensors of another checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from esm_core.checkpoints.base import Checkpoint, TensorInfo


def only(parts: Sequence[Tensor]) -> Tensor:
    """The one tensor there is, unchanged."""
    (tensor,) = parts
    return tensor


@dataclass(frozen=True)
class Source:
    """How a tensor is made when it is read.

    Attributes
    ----------
    parts : tuple of str
        Names in the other checkpoint.
    info : TensorInfo
        What ``make`` gives.
    make : callable
        From the parts' tensors to the tensor.
    """

    parts: tuple[str, ...]
    info: TensorInfo
    make: Callable[[Sequence[Tensor]], Tensor] = only


class View(Checkpoint):
    """The tensors in ``sources`` by their new names, read lazily from ``checkpoint``."""

    def __init__(self, checkpoint: Checkpoint, sources: Mapping[str, Source]) -> None:
        self.location = checkpoint.location
        self.lazy = checkpoint.lazy
        self._checkpoint = checkpoint
        self._sources = sources
        self._tensors = {name: source.info for name, source in sources.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._checkpoint.metadata

    def read(self, name: str) -> Tensor:
        self._info(name)
        source = self._sources[name]
        return source.make([self._checkpoint.read(part) for part in source.parts])
