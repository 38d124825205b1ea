"""Writers of published files, and the digest that is made while they write."""

import hashlib
from collections.abc import Callable, Mapping
from typing import IO, Any

from esm_core.storage import Location

Writer = Callable[[IO[bytes]], None]
"""Writes a file's bytes to a stream."""


def write_all(folder: Location, files: Mapping[str, Writer]) -> dict[str, Any]:
    """Write files below ``folder``; returns the size and sha256 of each, as a manifest lists them."""
    written = {}
    for path in sorted(files):
        with (folder / path).writer() as stream:
            hashing = _HashingStream(stream)
            files[path](hashing)  # type: ignore[arg-type]
        written[path] = {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}
    return written


def bytes_writer(data: bytes) -> Writer:
    """Writes ``data``."""

    def write(stream: IO[bytes]) -> None:
        stream.write(data)

    return write


def copy_writer(source: Location) -> Writer:
    """Writes the bytes of ``source``, in pieces."""

    def write(stream: IO[bytes]) -> None:
        with source.open() as original:
            while piece := original.read(1024**2):
                stream.write(piece)

    return write


class _HashingStream:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._stream.write(data)
