"""Parquet files with an image column, as Hugging Face datasets are published."""

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from esm_core.errors import InputError
from esm_core.images.base import MAX_BYTES, ImageSource, Sample, as_label, too_large
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors

IMAGE_COLUMNS = ("image", "img", "jpg", "png")
LABEL_COLUMNS = ("label", "cls")

# Rows decoded together, and bytes read ahead of them per column. Without pre-buffering, a page of the
# file (its unit of compression) is then all that is in memory, however large the row group.
_ROWS = 16
_BUFFER = 1 << 20

_MAX_FOOTER = 64 * 2**20
_MAX_RATIO = 20


class _Row(NamedTuple):
    file: str
    group: int
    row: int  # within the row group
    sample_id: str


class ParquetImages(ImageSource):
    """Rows of Parquet files; the id is ``file.parquet/000123``, 123 being the row.

    The image column is the first of ``image``, ``img``, ``jpg`` and ``png`` that is binary or a
    struct with binary ``bytes`` (Hugging Face's form). The label is the first of ``label`` and ``cls``
    that is an integer column, where there is one. Row groups are streamed, page by page.
    """

    kind = "Parquet files"
    suffixes = ("parquet",)

    @cached_property
    def _footers(self) -> dict[str, Any]:
        return {file: _footer(self._place(file)) for file in self._files}

    @cached_property
    def _starts(self) -> dict[str, list[int]]:
        """Per file, the first row of every row group."""
        return {
            file: list(
                accumulate((footer.row_group(g).num_rows for g in range(footer.num_row_groups)), initial=0)
            )[:-1]
            for file, footer in self._footers.items()
        }

    def _list_ids(self) -> list[str]:
        ids = []
        for file, footer in self._footers.items():
            # Padded, so that ids sort as rows do.
            width = max(6, len(str(footer.num_rows)))
            ids += [f"{file}/{row:0{width}}" for row in range(footer.num_rows)]
        return ids

    def _read(self, ids: Sequence[str]) -> Iterator[Sample]:
        for file, in_file in groupby(map(self._find, ids), key=lambda row: row.file):
            place, footer = self._place(file), self._footers[file]
            with _reading(place), place.open() as stream:
                parquet = pq.ParquetFile(stream, metadata=footer, buffer_size=_BUFFER, pre_buffer=False)
                for group, in_group in groupby(in_file, key=lambda row: row.group):
                    yield from _read_group(parquet, place, group, list(in_group))

    def _find(self, sample_id: str) -> _Row:
        file, number = sample_id.rsplit("/", 1)
        starts = self._starts[file]
        group = bisect_right(starts, int(number)) - 1
        return _Row(file, group, int(number) - starts[group], sample_id)


@contextlib.contextmanager
def _reading(place: Location) -> Iterator[None]:
    with storage_errors(place, "read"):
        try:
            yield
        except pa.ArrowException as error:
            raise InputError(
                f"{place}: is not a readable Parquet file ({' '.join(str(error).split())}); it may be "
                "truncated. Copy or write it again."
            ) from error


def _footer(place: Location) -> Any:
    size = place.size()
    with _reading(place), place.open() as stream:
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] == b"PAR1" and length > _MAX_FOOTER:
            raise InputError(f"{place}: claims a footer of {length} bytes (at most {_MAX_FOOTER}).")
        stream.seek(0)
        footer = pq.ParquetFile(stream).metadata
    name, _ = _image_column(footer.schema.to_arrow_schema(), place)
    if footer.num_rows > size:
        # Every row gets a name, before any is read.
        raise InputError(f"{place}: claims {footer.num_rows} rows, but has {size} bytes. Write it again.")
    _refuse_bombs(footer, name, place)
    return footer


def _refuse_bombs(footer: Any, image: str, place: Location) -> None:
    """Refuse images that were compressed to nearly nothing: encoded images cannot be, a bomb is."""
    for group in range(footer.num_row_groups):
        columns = footer.row_group(group)
        for index in range(columns.num_columns):
            column = columns.column(index)
            packed, size = column.total_compressed_size, column.total_uncompressed_size
            if column.path_in_schema.split(".")[0] != image:
                continue
            if packed < 0 or size < 0 or size > max(MAX_BYTES, _MAX_RATIO * packed):
                raise InputError(
                    f"{place}: row group {group} would unpack {packed} bytes to {size}; images are not "
                    "compressed like that. Write it again."
                )


def _read_group(parquet: Any, place: Location, group: int, wanted: list[_Row]) -> Iterator[Sample]:
    """The wanted rows of one row group in the order wanted, in one pass over it.

    Rows that come before their turn are held; none are where the order is that of the file.
    """
    left = Counter(row.row for row in wanted)
    found = _rows(parquet, place, group, {row.row: row.sample_id for row in wanted})
    held: dict[int, Sample] = {}
    for row in wanted:
        while row.row not in held:
            number, sample = next(found)
            held[number] = sample
        yield held[row.row]
        left[row.row] -= 1
        if not left[row.row]:
            del held[row.row]


def _rows(parquet: Any, place: Location, group: int, wanted: dict[int, str]) -> Iterator[tuple[int, Sample]]:
    schema = parquet.schema_arrow
    image, is_struct = _image_column(schema, place)
    label = next((c for c in LABEL_COLUMNS if c in schema.names and _is_integer(schema.field(c))), None)
    columns = [f"{image}.bytes" if is_struct else image, *([label] if label else [])]
    start, last = 0, max(wanted)
    for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
        for row in range(start, start + batch.num_rows):
            if row in wanted:
                value = batch.column(image)[row - start].as_py()
                data = value["bytes"] if is_struct and value is not None else value
                number = batch.column(label)[row - start].as_py() if label else None
                yield row, _sample(wanted[row], data, number, place)
        start += batch.num_rows
        if start > last:
            return


def _sample(sample_id: str, data: bytes | None, label: int | None, place: Location) -> Sample:
    if data is None:
        raise InputError(
            f"{place}: row {sample_id!r} holds no image bytes; a path to a file elsewhere is not followed."
        )
    if len(data) > MAX_BYTES:
        raise too_large(place, sample_id, len(data))
    return Sample(sample_id, as_label(label, place, sample_id), data)


def _image_column(schema: Any, place: Location) -> tuple[str, bool]:
    """Name of the image column, and whether it is a struct with ``bytes``."""
    for name in IMAGE_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if _is_binary(kind):
            return name, False
        if (
            pa.types.is_struct(kind)
            and kind.get_field_index("bytes") >= 0
            and _is_binary(kind.field("bytes").type)
        ):
            return name, True
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise InputError(
        f"{place}: has no image column. Expected one named {', '.join(IMAGE_COLUMNS)} that is binary or a "
        f"struct with binary 'bytes'; it has: {columns or 'no columns'}."
    )


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_integer(field: Any) -> bool:
    return bool(pa.types.is_integer(field.type))
