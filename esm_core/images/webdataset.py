"""Webdataset shards: ``.tar`` files whose members belong together by name."""

import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import IO, cast

from esm_core.errors import InputError
from esm_core.images.base import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    ImageSource,
    Sample,
    as_label,
    is_hidden,
    too_large,
)
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors

_BLOCK = 512
_MAX_LABEL = 2**20
# Long names and their like, which are read whole.
_MAX_HEADER = 2**20


@dataclass(frozen=True, order=True, slots=True)
class _Span:
    """The bytes ``start`` to ``end`` of a shard."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one sample's parts lie in its shard."""

    shard: str
    image: _Span
    cls: _Span | None
    json: _Span | None

    def spans(self) -> list[_Span]:
        """What is read of the sample, in the order it lies in, so that a stream only moves forward."""
        label = self.cls or self.json
        return sorted([self.image, label] if label else [self.image])


class WebDataset(ImageSource):
    """Samples in tar shards: an image and, where labelled, ``.cls`` or ``.json`` beside it.

    Members whose path is the same up to the first dot of the file name are one sample, with the id
    ``shard.tar/path``. ``.cls`` holds the class index as text; ``.json`` an object whose ``label``,
    where it is an integer, is the class index. Nothing is extracted: the headers are read once to
    find where members lie (they need not lie together), then bytes are read from there.
    """

    kind = "webdataset .tar shards"
    suffixes = ("tar",)

    @cached_property
    def _index(self) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        for shard in self._files:
            found.update(_index_shard(self._place(shard), shard))
        return found

    def _list_ids(self) -> list[str]:
        return list(self._index)

    def _read(self, ids: Sequence[str]) -> Iterator[Sample]:
        # A few samples of a large shard: ranges cost one request each and no read-ahead.
        for sample_id in ids:
            entry = self._index[sample_id]
            place = self._place(entry.shard)
            yield _sample(sample_id, entry, place, partial(_range, place))

    def _read_all(self) -> Iterator[Sample]:
        # In the order of the shard, whatever the ids: one sequential read of each.
        in_order = sorted(self._index.items(), key=lambda item: (item[1].shard, item[1].spans()[0]))
        for shard, entries in groupby(in_order, key=lambda item: item[1].shard):
            place = self._place(shard)
            with storage_errors(place, "read"), place.open() as stream:
                for sample_id, entry in entries:
                    yield _sample(sample_id, entry, place, partial(_seek, stream))


def _index_shard(place: Location, shard: str) -> dict[str, _Entry]:
    samples: dict[str, dict[str, _Span]] = {}
    with storage_errors(place, "read"), place.open() as stream:
        for member in _members(stream, place):
            name = posixpath.normpath(member.name).lstrip("/")
            if not member.isreg() or is_hidden(name):
                continue
            folder, base = posixpath.split(name)
            stem, _, extension = base.partition(".")
            part = _part(extension.lower())
            if part is None:
                continue
            if member.issparse():
                raise InputError(f"{place}: stores {name} as a sparse file; write the tar without --sparse.")
            key = posixpath.join(shard, folder, stem)
            parts = samples.setdefault(key, {})
            if part in parts:
                raise InputError(
                    f"{place}: sample {key!r} has more than one {part}, the last being {name}; what is "
                    "before the first dot of a file name must tell samples apart."
                )
            if part == "image" and member.size > MAX_BYTES:
                raise too_large(place, name, member.size)
            if part != "image" and member.size > _MAX_LABEL:
                raise InputError(
                    f"{place}: {name} has {member.size} bytes; a label has at most {_MAX_LABEL}."
                )
            parts[part] = _Span(member.offset_data, member.offset_data + member.size)
    return {
        key: _Entry(shard, parts["image"], parts.get("cls"), parts.get("json"))
        for key, parts in samples.items()
        if "image" in parts
    }


def _part(extension: str) -> str | None:
    """What a member is, by everything after the first dot of its name."""
    if extension.rsplit(".", 1)[-1] in IMAGE_SUFFIXES:
        return "image"
    return extension if extension in ("cls", "json") else None


def _members(stream: IO[bytes], place: Location) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar, which must be complete.

    ``tarfile`` takes a damaged header, and a file that ends between two members, for the end of the
    archive, which would silently drop images; so the end-of-archive block itself is asked for.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Headers(stream)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name!r} has a negative size")
                yield member
                # The list would grow by a kilobyte per member; nothing here looks back.
                tar.members.clear()  # type: ignore[attr-defined]  # documented nowhere, relied on widely
            end = tar.offset
    except tarfile.TarError as error:
        raise InputError(
            f"{place}: is not a complete tar file ({error}); it is truncated, damaged or compressed. Copy "
            "it again, or write it uncompressed."
        ) from error
    stream.seek(end)
    block = stream.read(_BLOCK)
    if len(block) < _BLOCK:
        raise InputError(
            f"{place}: is truncated: it ends at byte {end + len(block)} without the end-of-archive block of "
            "a complete tar file. Copy or write it again."
        )
    if any(block):
        raise InputError(
            f"{place}: is damaged: there is no tar header at byte {end}. Copy or write it again."
        )


class _Headers:
    """The stream as ``tarfile`` sees it: only headers are read, forward, and none of them is large.

    A header says how long the next one is, and ``tarfile`` believes it: also gigabytes, or less than nothing,
    which would make it read everything, or the same members for ever.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._last = stream, -1

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        if position <= self._last:
            raise tarfile.ReadError("a header that leads back")
        self._last = position
        return self._stream.seek(position, whence)


def _sample(sample_id: str, entry: _Entry, place: Location, get: Callable[[_Span], bytes]) -> Sample:
    parts = {span: get(span) for span in entry.spans()}
    for span, data in parts.items():
        if len(data) != span.end - span.start:
            raise InputError(f"{place}: changed while it was read; {sample_id!r} is cut short.")
    value = None
    if entry.cls is not None:
        value = _label_of_cls(parts[entry.cls], place, sample_id)
    elif entry.json is not None:
        value = _label_of_json(parts[entry.json], place, sample_id)
    return Sample(sample_id, as_label(value, place, sample_id), parts[entry.image])


def _label_of_cls(data: bytes, place: Location, sample_id: str) -> int:
    try:
        return int(data.decode("ascii"))
    except ValueError as error:
        raise InputError(
            f"{place}: the .cls of {sample_id!r} is {data[:40]!r}; a class index such as 3 was expected."
        ) from error


def _label_of_json(data: bytes, place: Location, sample_id: str) -> int | None:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(f"{place}: the .json of {sample_id!r} is not valid JSON ({error}).") from error
    label = content.get("label") if isinstance(content, dict) else None
    # Captions and the like are no reason to refuse proxy images, which need no label.
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _range(place: Location, span: _Span) -> bytes:
    # An empty range cannot be written as an HTTP header.
    return place.read_bytes(span.start, span.end) if span.end > span.start else b""


def _seek(stream: IO[bytes], span: _Span) -> bytes:
    stream.seek(span.start)
    return stream.read(span.end - span.start)
