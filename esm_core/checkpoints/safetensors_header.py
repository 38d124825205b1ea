"""The header of a safetensors file: checked as input from a stranger, written byte for byte stable.

A file is eight bytes (little-endian length of the header), the header (JSON, padded with spaces) and
the tensors' bytes back to back. Nothing in a header is believed before it is compared with the file.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from esm_core.checkpoints.base import DTYPE_NAMES, DTYPES, TensorInfo
from esm_core.errors import InputError
from esm_core.storage import Location

LENGTH_BYTES = 8
# A tensor takes some 100 bytes of it; JSON takes up to 30 times its text in memory.
MAX_HEADER = 16 * 2**20
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 64
# Keeps every product below what torch computes with, also beside a size of zero.
_MAX_COUNT = 2**56
_MAX_SHOWN = 200


@dataclass(frozen=True)
class Header:
    """A header that fits its file.

    Attributes
    ----------
    tensors : mapping of name to TensorInfo
        In the order of the data.
    starts : mapping of name to int
        Where each tensor's bytes begin in the file.
    metadata : mapping of str to str
    """

    tensors: Mapping[str, TensorInfo]
    starts: Mapping[str, int]
    metadata: Mapping[str, str]


def read_header(location: Location) -> Header:
    """Read and check the header of the safetensors file at ``location``.

    Raises
    ------
    InputError
        The file is missing, truncated, no safetensors file, or its header does not fit its data. At
        most the header, and never more than 16 MB, is read before that is known.
    """
    size = location.size()
    not_one = f"{location}: is not a safetensors file"
    if size < LENGTH_BYTES:
        raise InputError(f"{not_one}: it has {size} bytes only. Copy or download it again.")
    (length,) = struct.unpack("<Q", location.read_bytes(0, LENGTH_BYTES))
    if length > MAX_HEADER:
        raise InputError(f"{not_one}: its header would be {length} bytes long (at most {MAX_HEADER}).")
    start = LENGTH_BYTES + length
    if start > size:
        raise _truncated(location, start, size)
    text = location.read_bytes(LENGTH_BYTES, start) if length else b""
    if len(text) != length:
        raise _truncated(location, start, LENGTH_BYTES + len(text))
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:_MAX_SHOWN] or type(error).__name__
        raise InputError(f"{not_one}: its header is not valid JSON ({reason}).") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{not_one}: its header is not a JSON object.")
    metadata = _metadata(location, parsed.pop(_METADATA, {}))
    entries = {name: _entry(location, name, entry) for name, entry in parsed.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1][1], item[1][2])))
    _check_layout(location, ordered, start, size)
    return Header(
        tensors={name: info for name, (info, _, _) in ordered.items()},
        starts={name: start + begin for name, (_, begin, _) in ordered.items()},
        metadata=metadata,
    )


def header_bytes(tensors: Mapping[str, TensorInfo], metadata: str | None) -> bytes:
    """The length and header of a file that holds ``tensors`` in the given order.

    Parameters
    ----------
    tensors : mapping of name to TensorInfo
    metadata : str, optional
        Text kept under the one key ``esmerge``. With more keys the byte order would not be stable.

    Raises
    ------
    InputError
        A tensor's dtype or name has no place in a safetensors file.
    """
    header: dict[str, Any] = {} if metadata is None else {_METADATA: {"esmerge": metadata}}
    begin = 0
    for name, info in tensors.items():
        if name == _METADATA or info.dtype not in DTYPE_NAMES:
            raise InputError(f"Tensor {name!r} ({info.dtype}) cannot be stored in a safetensors file.")
        end = begin + info.nbytes
        dtype = DTYPE_NAMES[info.dtype]
        header[name] = {"dtype": dtype, "shape": list(info.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # Readers that map the file expect the data to begin at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _truncated(location: Location, promised: int, size: int) -> InputError:
    return InputError(
        f"{location}: is truncated: its header promises {promised} bytes, the file has {size}. "
        "Copy or download it again."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:_MAX_SHOWN]!r} is given twice")
    return found


def _metadata(location: Location, found: object) -> dict[str, str]:
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    raise InputError(f"{location}: is not a usable safetensors file: {_METADATA} must map text to text.")


def _entry(location: Location, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    where = f"{location}: tensor {name[:_MAX_SHOWN]!r}"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: its header entry is not a JSON object.")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        shown = f"{dtype!r}"[:_MAX_SHOWN]
        raise InputError(f"{where}: has the unsupported dtype {shown}; supported are {', '.join(DTYPES)}.")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _is_possible(shape):
        raise InputError(f"{where}: its shape is not a list of at most {_MAX_DIMENSIONS} possible sizes.")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{where}: its data_offsets are not a begin and an end.")
    info, (begin, end) = TensorInfo(tuple(shape), DTYPES[dtype]), offsets
    if info.nbytes != end - begin:
        raise InputError(
            f"{where}: its data_offsets hold {end - begin} bytes, but shape {list(shape)} of {dtype} "
            f"needs {info.nbytes}."
        )
    return info, begin, end


def _is_possible(shape: list[int]) -> bool:
    return len(shape) <= _MAX_DIMENSIONS and math.prod(filter(None, shape)) <= _MAX_COUNT


def _are_counts(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(item) is int and 0 <= item <= _MAX_COUNT for item in found)


def _check_layout(
    location: Location, ordered: Mapping[str, tuple[TensorInfo, int, int]], start: int, size: int
) -> None:
    expected = 0
    for name, (_, begin, end) in ordered.items():
        if begin != expected:
            problem = "overlaps the one before it" if begin < expected else "leaves a hole before it"
            raise InputError(
                f"{location}: tensor {name[:_MAX_SHOWN]!r}: its data {problem} (begins at {begin}, "
                f"expected {expected}). The file is damaged; export it again."
            )
        expected = end
    if start + expected > size:
        raise _truncated(location, start + expected, size)
    if start + expected < size:
        raise InputError(
            f"{location}: has {size - start - expected} bytes after its last tensor. The file is damaged; "
            "copy or export it again."
        )
