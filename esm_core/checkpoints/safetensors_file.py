"""Safetensors files: read lazily by byte range, written tensor by tensor."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from esm_core.checkpoints.base import DTYPES, Checkpoint, TensorInfo
from esm_core.checkpoints.safetensors_header import LENGTH_BYTES, header_bytes, read_header
from esm_core.errors import InputError
from esm_core.storage import Location


class SafetensorsFile(Checkpoint):
    """A safetensors file, local or on S3. Opening reads the header; ``read`` reads one tensor.

    Parameters
    ----------
    location : Location
        The file.

    Raises
    ------
    InputError
        The file is missing, truncated, or no sound safetensors file; see
        :func:`~esm_core.checkpoints.safetensors_header.read_header`.

    Notes
    -----
    The file is not mapped into memory, so what is held is what the caller holds, and a file that is
    cut short meanwhile is an error instead of a crash.
    """

    lazy = True

    def __init__(self, location: Location) -> None:
        self.location = location
        self._header = read_header(location)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._header.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._header.metadata

    def read(self, name: str) -> Tensor:
        info = self._info(name)
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        # Torch's own memory, which can be in huge pages, and no copy beside it.
        buffer = torch.empty(info.nbytes, dtype=torch.uint8)
        if self.location.read_into(self._header.starts[name], buffer.numpy().data) < info.nbytes:
            raise InputError(
                f"{self.location}: tensor {name!r} could not be read whole: the file was cut short since "
                "it was opened. Copy or download it again."
            )
        return buffer.view(info.dtype).reshape(info.shape)


def tensors_in(data: bytearray) -> dict[str, Tensor]:
    """The tensors of a whole safetensors file in memory, which they share and keep alive.

    For bytes whose digest is known to be right: the header is believed.
    """
    (length,) = struct.unpack_from("<Q", data)
    start = LENGTH_BYTES + length
    header = json.loads(data[LENGTH_BYTES:start])
    header.pop("__metadata__", None)
    return {
        name: _shared(data, DTYPES[entry["dtype"]], entry["shape"], start + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _shared(data: bytearray, dtype: torch.dtype, shape: list[int], start: int) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:  # kernels may want whole steps: other writers need not keep them
        own = data[start : start + count * dtype.itemsize]
        return torch.frombuffer(own, dtype=dtype).reshape(shape)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(shape)


def write_safetensors(
    location: Location,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], Tensor],
    metadata: str | None = None,
) -> tuple[int, str]:
    """Write a safetensors file, one tensor in memory at a time; equal input gives equal bytes.

    Parameters
    ----------
    location : Location
        The file; it appears, or replaces an older one, only when it is complete.
    tensors : mapping of name to TensorInfo
        What the file holds, in this order.
    read : callable
        Gives the tensor of a name, of the shape and dtype in ``tensors``, on any device.
    metadata : str, optional
        Kept under the single metadata key ``esmerge``.

    Returns
    -------
    size : int
        Bytes written.
    sha256 : str
        Their digest, in hexadecimal.

    Raises
    ------
    InputError
        A dtype that safetensors does not know, or the place cannot be written to.
    ValueError
        ``read`` gave another shape or dtype than ``tensors`` says.
    """
    header = header_bytes(tensors, metadata)
    digest, size = hashlib.sha256(header), len(header)
    with location.writer() as stream:
        stream.write(header)
        for name, info in tensors.items():
            tensor = read(name).detach()
            if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
                raise ValueError(
                    f"{name}: got {tensor.dtype} {tuple(tensor.shape)}, expected {info.dtype} {info.shape}"
                )
            data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            stream.write(data)
            size += data.nbytes
    return size, digest.hexdigest()
