"""What every checkpoint looks like, whatever file it comes from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.errors import InputError
from esm_core.storage import Location

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes esmerge reads and writes, by their safetensors name."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it.

    Attributes
    ----------
    shape : tuple of int
    dtype : torch.dtype
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint(ABC):
    """Named tensors in a file, read one at a time.

    Attributes
    ----------
    location : Location
        The file itself, also where a folder was opened.
    lazy : bool
        Whether opening reads the header only, so that opening a remote file again costs little.
    """

    location: Location
    lazy: bool

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor by name, in the file's order; no tensor data is read."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """Free text the file carries beside its tensors."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor ``name`` on the CPU, contiguous, in its stored dtype; the caller owns it.

        Raises
        ------
        InputError
            There is no such tensor, or the file is no longer what it was when it was opened.
        """

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            first = ", ".join(list(self.tensors)[:3])
            raise InputError(f"{self.location}: has no tensor {name!r}; it has {first}, ...") from None
