"""Parquet files with an image column."""

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_core.errors import InputError, TransientStorageError
from esm_core.images import open_images
from esm_core.storage import Location


@pytest.fixture
def write_parquet(tmp_path):
    """``write_parquet(name, {column: values})`` in row groups of ``group`` rows."""

    def write(name, columns, group=3):
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=group)
        return Location.parse(str(tmp_path / name))

    return write


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    """Fifty rows in row groups of seventeen, more than are decoded together."""
    path = tmp_path_factory.mktemp("fifty") / "a.parquet"
    rows = [bytes([i]) for i in range(50)]
    pq.write_table(pa.table({"jpg": rows, "cls": list(range(50))}), path, row_group_size=17)
    return open_images(Location.parse(str(path)))


def test_a_hugging_face_image_column(write_parquet):
    rows = [{"bytes": bytes([i]), "path": f"{i}.png"} for i in range(5)]
    images = open_images(
        write_parquet("test.parquet", {"image": rows, "label": [4, 3, 2, 1, 0], "note": ["x"] * 5})
    )
    assert images.class_names is None
    assert images.sample_ids() == [f"test.parquet/00000{i}" for i in range(5)]
    assert [(s.id, s.label, s.data) for s in images.read_all()] == [
        (f"test.parquet/00000{i}", 4 - i, bytes([i])) for i in range(5)
    ]


@pytest.mark.parametrize("column", ["image", "img", "jpg", "png"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_a_binary_image_column(write_parquet, column, kind):
    images = open_images(write_parquet("a.parquet", {column: pa.array([b"x", b"y"], kind)}))
    assert [(s.label, s.data) for s in images.read_all()] == [(None, b"x"), (None, b"y")]


def test_labels_that_are_missing_or_not_integers(write_parquet):
    ids_and_labels = {"label": ["cat", "dog", "cat"], "cls": pa.array([1, None, -1], pa.int64())}
    images = open_images(write_parquet("a.parquet", {"image": [b""] * 3, **ids_and_labels}))
    assert [s.label for s in images.read_all()] == [1, None, None]


def test_a_folder_of_files(write_parquet, tmp_path, here):
    (tmp_path / "data").mkdir()
    write_parquet("data/1.parquet", {"image": [b"c"]})
    write_parquet("data/0.parquet", {"image": [b"a", b"b"]})
    images = open_images(here)
    assert images.sample_ids() == ["data/0.parquet/000000", "data/0.parquet/000001", "data/1.parquet/000000"]
    assert [s.data for s in images.read_all()] == [b"a", b"b", b"c"]


@given(rows=st.lists(st.integers(0, 49), max_size=30))
def test_any_rows_in_any_order(fifty, rows):
    samples = list(fifty.read([f"a.parquet/{row:06}" for row in rows]))
    assert [(s.label, s.data) for s in samples] == [(row, bytes([row])) for row in rows]


def test_reading_everything_holds_little_at_a_time(write_parquet):
    # All in one row group, as some datasets are written.
    rows = pa.array([random.Random(i).randbytes(1_000) for i in range(20_000)])
    images = open_images(
        write_parquet("a.parquet", {"image": rows, "label": list(range(20_000))}, group=20_000)
    )
    size = rows.nbytes
    del rows
    before, most = pa.total_allocated_bytes(), 0
    for number, sample in enumerate(images.read_all()):
        assert sample.label == number
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < size / 3


def test_no_image_column_lists_what_there_is(write_parquet):
    place = write_parquet("a.parquet", {"picture": [b""], "image": ["a.png"]})
    with pytest.raises(
        InputError, match=r"a.parquet: has no image column.*it has: picture \(binary\), image \(string\)"
    ):
        open_images(place).sample_ids()


def test_a_row_without_bytes_is_named(write_parquet):
    rows = [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "elsewhere.png"}]
    images = open_images(write_parquet("a.parquet", {"image": rows}))
    with pytest.raises(InputError, match=r"row 'a.parquet/000001' holds no image bytes"):
        list(images.read_all())


def test_no_rows_are_no_images(write_parquet):
    images = open_images(write_parquet("a.parquet", {"image": pa.array([], pa.binary())}))
    with pytest.raises(InputError, match=r"a\.parquet: holds no images"):
        images.sample_ids()


@pytest.mark.parametrize("kept", [0, 3, 100, -4])
def test_a_truncated_file_is_refused(write_parquet, kept):
    place = write_parquet("a.parquet", {"image": [b"x" * 500] * 10})
    place.write_bytes(place.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.parquet: is not a readable Parquet file"):
        open_images(place).sample_ids()


def test_damaged_rows_are_an_input_error(write_parquet):
    place = write_parquet("a.parquet", {"image": [bytes([i]) * 500 for i in range(10)]}, group=10)
    data = bytearray(place.read_bytes())
    data[4:60] = b"\xff" * 56  # the first page's header; the footer stays good
    place.write_bytes(bytes(data))
    images = open_images(place)
    assert len(images.sample_ids()) == 10
    with pytest.raises(InputError, match=r"a\.parquet: "):
        list(images.read_all())


def test_a_connection_lost_while_reading_may_be_retried(write_parquet, monkeypatch):
    place = write_parquet("a.parquet", {"image": [b"x" * 500] * 10})
    images = open_images(place)
    images.sample_ids()

    class Lost(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("peer")

    monkeypatch.setattr(Location, "open", lambda _: Lost(bytes(10_000)))
    with pytest.raises(TransientStorageError, match=r"a\.parquet: could not read it for now"):
        list(images.read_all())
    with pytest.raises(TransientStorageError, match=r"a\.parquet: could not read it for now"):
        open_images(place).sample_ids()
