"""Zarr v3 groups with a checksum on every chunk, local or on S3.

Notes
-----
One writer per group. Writers of the same digest write the same bytes over each other, one whole chunk
at a time, so a second concurrent run does no harm. Nothing is deleted.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import FsspecStore, LocalStore

from esm_core.errors import EsmergeError, IntegrityError
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors

CHUNK_BYTES = 32 * 1024**2

Array = NDArray[np.float64] | NDArray[np.float32]


def write_arrays(location: Location, arrays: Mapping[str, Array] | Iterable[tuple[str, Array]]) -> None:
    """Write float64 or float32 arrays as they are; ``a/b`` as a name puts array ``b`` in subgroup ``a``.

    Parameters
    ----------
    arrays : mapping, or iterable of (name, array)
        An iterable is taken one array at a time.
    """
    with storage_errors(location, "write"):
        root = _group(location)
        for path, values in arrays.items() if isinstance(arrays, Mapping) else arrays:
            _array(root, path, values)[...] = values


def read_array(location: Location, path: str) -> NDArray[np.float64]:
    """:func:`read_stored`, in float64 whatever it was written in."""
    return read_stored(location, path).astype(np.float64, copy=False)


def read_stored(location: Location, path: str) -> Array:
    """Read one array, float64 or float32 as it was written, and verify it.

    Raises
    ------
    IntegrityError
        A chunk is damaged (crc32c) or missing, or the array is not there.
    """
    try:
        with storage_errors(location, "read"):
            root = zarr.open_group(_store(location, read_only=True), mode="r", zarr_format=3)
            array = root[path]
            assert isinstance(array, zarr.Array)
            if list(array.shape) != array.attrs["shape"]:
                raise ValueError("its metadata is not what was written")
            values: Array = np.asarray(array[...])
    except EsmergeError:
        raise
    except Exception as error:
        raise IntegrityError(
            f"{location}: array {path} is damaged ({error}). Delete the folder {location} and run again."
        ) from error
    if not np.isfinite(values).all():
        raise IntegrityError(
            f"{location}: array {path} misses a chunk. Delete the folder {location} and run again."
        )
    return values


def _group(location: Location) -> zarr.Group:
    store = _store(location, read_only=False)
    try:
        return zarr.open_group(store, mode="a", zarr_format=3)
    except ContainsGroupError:  # another run made it a moment ago
        return zarr.open_group(store, mode="r+", zarr_format=3)


def _store(location: Location, read_only: bool) -> LocalStore | FsspecStore:
    if location.is_local:
        return LocalStore(location.path, read_only=read_only)
    from esm_core.storage_s3 import filesystem  # s3fs is optional

    # Zarr runs an event loop of its own: `asynchronous=True` gives it a filesystem nobody else uses.
    return FsspecStore(filesystem(asynchronous=True), read_only=read_only, path=location.path)


def _array(root: zarr.Group, path: str, values: Array) -> Any:
    shape, dtype = values.shape, values.dtype
    found = root.get(path)
    if isinstance(found, zarr.Array) and (found.shape, found.dtype) == (shape, dtype):
        return found
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    most = min(shape[0], max(1, CHUNK_BYTES // max(row_bytes, 1)))
    # All of one size: Zarr stores the last chunk in full too, however little is in it.
    rows = math.ceil(shape[0] / math.ceil(shape[0] / most)) if most else 1
    try:
        return root.create_array(
            path,
            shape=shape,
            dtype=dtype.name,
            chunks=(rows, *(max(size, 1) for size in shape[1:])),
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),
            attributes={"shape": list(shape)},
            overwrite=found is not None,
        )
    except ContainsArrayError:  # another run made it a moment ago; to overwrite would delete its chunks
        return root[path]
