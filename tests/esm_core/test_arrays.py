from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_core import InputError, IntegrityError
from esm_core.arrays import read_array, write_arrays
from esm_core.storage import Location

LAYER = "visual.transformer.resblocks.0.mlp.c_fc.weight"
ARRAYS = {
    f"{LAYER}/factor": np.random.default_rng(0).standard_normal((20, 7)),
    f"{LAYER}/mean": np.random.default_rng(1).standard_normal(7),
    "update": np.random.default_rng(2).standard_normal((3, 4, 2)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "group"))


@pytest.fixture
def written(folder: Location, monkeypatch: pytest.MonkeyPatch) -> Location:
    """The arrays, in chunks of a few rows each."""
    monkeypatch.setattr("esm_core.arrays.CHUNK_BYTES", 8 * 7 * 6)
    write_arrays(folder, ARRAYS)
    return folder


def chunks(folder: Location, path: str) -> list[Path]:
    return sorted(p for p in Path(folder.path, path, "c").rglob("*") if p.is_file())


def every_chunk(folder: Location) -> list[tuple[str, Path]]:
    return [(path, chunk) for path in ARRAYS for chunk in chunks(folder, path)]


def test_arrays_come_back_bit_for_bit(written: Location) -> None:
    assert len(chunks(written, f"{LAYER}/factor")) == 4
    for path, values in ARRAYS.items():
        read = read_array(written, path)
        assert read.dtype == np.float64
        assert read.tobytes() == values.tobytes()


def test_extreme_values_and_empty_arrays_come_back(folder: Location) -> None:
    extreme = np.array([0.0, -0.0, 5e-324, np.finfo(float).max, -np.finfo(float).tiny])
    write_arrays(folder, {"extreme": extreme, "empty": np.zeros((0, 3)), "zeros": np.zeros((4, 4))})
    assert read_array(folder, "extreme").tobytes() == extreme.tobytes()
    assert read_array(folder, "empty").shape == (0, 3)
    assert not read_array(folder, "zeros").any()


def test_a_transposed_view_is_written_as_it_reads(folder: Location) -> None:
    values = np.arange(12.0).reshape(3, 4)
    write_arrays(folder, {"view": values.T, "strided": values[:, ::2]})
    assert np.array_equal(read_array(folder, "view"), values.T)
    assert np.array_equal(read_array(folder, "strided"), values[:, ::2])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_any_shape_comes_back(tmp_path_factory: pytest.TempPathFactory, shape: list[int], seed: int) -> None:
    folder = Location.parse(str(tmp_path_factory.mktemp("group")))
    values = np.random.default_rng(seed).standard_normal(shape)
    write_arrays(folder, {"a": values})
    assert np.array_equal(read_array(folder, "a"), values)


def test_one_flipped_byte_in_any_chunk_is_found(written: Location) -> None:
    found = every_chunk(written)
    assert len(found) >= 6
    for path, chunk in found:
        whole = chunk.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            chunk.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
            with pytest.raises(IntegrityError, match=f"^{written}: array {path} is damaged"):
                read_array(written, path)
        chunk.write_bytes(whole)
        read_array(written, path)


@pytest.mark.parametrize("kept", [0, 1, 4, 11, -1], ids=lambda kept: f"{kept} bytes")
def test_a_truncated_chunk_is_found(written: Location, kept: int) -> None:
    for path, chunk in every_chunk(written):
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[:kept])
        with pytest.raises(IntegrityError, match=f"^{written}: "):
            read_array(written, path)
        chunk.write_bytes(whole)


def test_a_chunk_that_is_gone_is_found(written: Location) -> None:
    for path, chunk in every_chunk(written):
        whole = chunk.read_bytes()
        chunk.unlink()
        with pytest.raises(IntegrityError, match=f"^{written}: array {path} misses a chunk"):
            read_array(written, path)
        chunk.write_bytes(whole)


def test_a_damaged_description_of_an_array_is_found(written: Location) -> None:
    path = f"{LAYER}/factor"
    description = Path(written.path, path, "zarr.json")
    whole = description.read_text()
    # The last of these still reads, as fewer rows than were written.
    for damaged in ("", whole[:50], "{}", whole.replace("20,", "10,", 1)):
        description.write_text(damaged)
        with pytest.raises(IntegrityError, match=f"^{written}: "):
            read_array(written, path)


def test_an_array_that_is_not_there_is_named(written: Location) -> None:
    with pytest.raises(IntegrityError, match="array nothing"):
        read_array(written, "nothing")
    with pytest.raises(IntegrityError, match=LAYER):
        read_array(written, LAYER)
    with pytest.raises(InputError, match="absent"):
        read_array(written / "absent", "update")


def test_writing_the_same_arrays_again_changes_nothing(written: Location) -> None:
    before = {name: (written / name).read_bytes() for name in written.files()}
    write_arrays(written, ARRAYS)
    assert {name: (written / name).read_bytes() for name in written.files()} == before


def test_writing_again_repairs_what_was_half_written(written: Location) -> None:
    found = chunks(written, f"{LAYER}/factor")
    found[0].unlink()
    found[1].write_bytes(found[1].read_bytes()[:5])
    write_arrays(written, ARRAYS)
    for path, values in ARRAYS.items():
        assert np.array_equal(read_array(written, path), values)


def test_an_array_of_another_shape_replaces_the_old_one(written: Location) -> None:
    write_arrays(written, {"update": np.ones((2, 2))})
    assert np.array_equal(read_array(written, "update"), np.ones((2, 2)))


def test_float32_takes_four_bytes_and_is_read_in_float64(folder: Location) -> None:
    values = np.random.default_rng(0).standard_normal((20, 7)).astype(np.float32)
    write_arrays(folder, {"single": values})
    (chunk,) = chunks(folder, "single")
    assert chunk.stat().st_size == 4 * 140 + 4
    read = read_array(folder, "single")
    assert read.dtype == np.float64
    assert np.array_equal(read, values)


def test_an_array_of_another_dtype_replaces_the_old_one(folder: Location) -> None:
    write_arrays(folder, {"a": np.full((2, 2), 0.1)})
    write_arrays(folder, {"a": np.full((2, 2), 0.1, dtype=np.float32)})
    assert np.array_equal(read_array(folder, "a"), np.full((2, 2), np.float32(0.1)))


def test_a_description_that_says_another_dtype_is_found(folder: Location) -> None:
    write_arrays(folder, {"a": np.ones((4, 4))})
    description = Path(folder.path, "a", "zarr.json")
    description.write_text(description.read_text().replace("float64", "float32"))
    with pytest.raises(IntegrityError, match=f"^{folder}: array a is damaged"):
        read_array(folder, "a")


def test_arrays_can_be_given_one_at_a_time(folder: Location) -> None:
    write_arrays(folder, ((name, np.ones(3)) for name in ("b", "a/c")))
    assert np.array_equal(read_array(folder, "a/c"), np.ones(3))
    assert np.array_equal(read_array(folder, "b"), np.ones(3))


def test_a_last_chunk_with_little_in_it_takes_little(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm_core.arrays.CHUNK_BYTES", 8 * 1000)
    write_arrays(folder, {"a": np.ones(2001)})
    assert [chunk.stat().st_size for chunk in chunks(folder, "a")] == [8 * 667 + 4] * 3
