"""Reading safetensors: lazily, and refusing every file that is not what its header says."""

import json
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from esm_core.checkpoints import SafetensorsFile, TensorInfo, tensors_in
from esm_core.checkpoints.base import DTYPES
from esm_core.errors import InputError
from esm_core.storage import Location


def write(location: Location, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(text) if length is None else length)
    location.write_bytes(prefix + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_safetensors_library_writes(folder):
    location = folder / "model.safetensors"
    tensors = {
        "matrix": torch.randn(3, 5),
        "half": torch.randn(7).to(torch.bfloat16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, location.path, metadata={"format": "pt"})
    checkpoint = SafetensorsFile(location)
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.tensors["matrix"] == TensorInfo((3, 5), torch.float32)
    assert checkpoint.tensors["matrix"].nbytes == 60
    assert set(checkpoint.tensors) == set(tensors)
    for name, expected in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == expected.dtype
        assert torch.equal(read, expected)


@pytest.mark.parametrize("name", DTYPES)
def test_reads_every_dtype(folder, name):
    location, size = folder / "model.safetensors", DTYPES[name].itemsize
    write(location, {"x": entry(name, (2, 1), (0, 2 * size))}, bytes(2 * size))
    read = SafetensorsFile(location).read("x")
    assert (read.dtype, tuple(read.shape)) == (DTYPES[name], (2, 1))


def test_opening_reads_the_header_only_and_reading_one_tensor_only_its_bytes(folder, monkeypatch):
    location = folder / "model.safetensors"
    save_file({"a": torch.zeros(1000), "b": torch.ones(10)}, location.path)
    ranges = []
    some, into = Location.read_bytes, Location.read_into

    def spy(self, start=None, end=None):
        ranges.append(end - start)
        return some(self, start, end)

    def spy_into(self, start, target):
        ranges.append(len(target))
        return into(self, start, target)

    monkeypatch.setattr(Location, "read_bytes", spy)
    monkeypatch.setattr(Location, "read_into", spy_into)
    checkpoint = SafetensorsFile(location)
    assert sum(ranges) < 300
    ranges.clear()
    assert torch.equal(checkpoint.read("b"), torch.ones(10))
    assert ranges == [40]


def test_a_tensor_read_is_the_callers_own(folder):
    location = folder / "model.safetensors"
    save_file({"a": torch.zeros(3)}, location.path)
    checkpoint = SafetensorsFile(location)
    checkpoint.read("a").add_(1)
    assert torch.equal(checkpoint.read("a"), torch.zeros(3))


def test_an_unknown_name_is_told_with_the_names_there_are(folder):
    location = folder / "head.safetensors"
    save_file({"kernel": torch.zeros(3)}, location.path)
    with pytest.raises(InputError, match=r"head\.safetensors: has no tensor 'weight'; it has kernel"):
        SafetensorsFile(location).read("weight")


def test_a_truncated_file_is_told_with_both_sizes(folder):
    location = folder / "model.safetensors"
    save_file({"a": torch.zeros(100)}, location.path)
    whole = location.read_bytes()
    location.write_bytes(whole[:-150])
    expected = (
        rf"is truncated: its header promises {len(whole)} bytes, the file has {len(whole) - 150}\. Copy or"
    )
    with pytest.raises(InputError, match=expected):
        SafetensorsFile(location)
    location.write_bytes(whole[:20])
    with pytest.raises(InputError, match=r"model\.safetensors: is truncated"):
        SafetensorsFile(location)


def test_a_file_cut_short_after_opening_is_an_error(folder):
    location = folder / "model.safetensors"
    save_file({"a": torch.zeros(100)}, location.path)
    checkpoint = SafetensorsFile(location)
    location.write_bytes(location.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"tensor 'a' could not be read whole.*cut short since"):
        checkpoint.read("a")


HEADERS = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "'b': its data overlaps"),
    "hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "'b': its data leaves a hole"),
    "hole at the start": ({"a": entry(offsets=(4, 12))}, 12, "'a': its data leaves a hole"),
    "too much data": ({"a": entry()}, 9, "has 1 bytes after its last tensor"),
    "unknown dtype": ({"a": entry("F4")}, 8, "'a': has the unsupported dtype 'F4'; supported are F64, F32"),
    "dtype not text": ({"a": entry(["F32"])}, 8, "'a': has the unsupported dtype"),
    "size and shape": ({"a": entry(shape=(3,))}, 8, r"hold 8 bytes, but shape \[3\] of F32 needs 12"),
    "negative size": ({"a": entry(shape=(-2, -1))}, 8, "'a': its shape is not"),
    "fraction": ({"a": entry(shape=(2.0,))}, 8, "'a': its shape is not"),
    "truth as size": ({"a": entry(shape=(True, 2))}, 8, "'a': its shape is not"),
    "huge size": ({"a": entry(shape=(2**70,))}, 8, "'a': its shape is not"),
    "huge and empty": ({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}, 0, "'a': its shape is not"),
    "many sizes": ({"a": entry(shape=[1] * 65)}, 8, "'a': its shape is not"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8, "'a': its shape is not"),
    "backwards": ({"a": entry(offsets=(8, 0))}, 8, "'a': its data_offsets are not"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, 8, "'a': its data_offsets are not"),
    "entry not an object": ({"a": 3}, 0, "'a': its header entry is not a JSON object"),
    "metadata not text": ({"__metadata__": {"a": 1}}, 0, "__metadata__ must map text to text"),
    "not an object": ([1], 0, "its header is not a JSON object"),
    "same tensor twice": (b'{"a":{},"a":{}}', 0, "key 'a' is given twice"),
    "not JSON": (b"{nonsense}", 0, r"is not a safetensors file: its header is not valid JSON"),
    "not text": (b'{"\xff": 1}', 0, "its header is not valid JSON"),
    "nested without end": (b"[" * 100_000, 0, "its header is not valid JSON"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_fit_is_refused(folder, case):
    header, size, message = HEADERS[case]
    write(folder / "model.safetensors", header, bytes(size))
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}"):
        SafetensorsFile(folder / "model.safetensors")


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_a_giant_header_is_refused_unread(folder, length):
    write(folder / "model.safetensors", {}, length=length)
    with pytest.raises(InputError, match=r"is not a safetensors file: its header would be \d+ bytes long"):
        SafetensorsFile(folder / "model.safetensors")


def test_a_tiny_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(
        InputError, match=r"is not a safetensors file: it has 3 bytes only\. Copy or download"
    ):
        SafetensorsFile(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_in_memory_are_those_of_the_file_and_share_it(dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.arange(3).to(dtype),
        "b": torch.zeros(0, 4, dtype=dtype),
        "c": torch.arange(12).reshape(3, 4).to(dtype),
        "d": torch.tensor(2).to(dtype),
    }
    data = bytearray(save(tensors, metadata={"esmerge": "{}"}))
    found = tensors_in(data)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)
    data[-dtype.itemsize :] = bytes(dtype.itemsize)
    assert any(not torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_tensors_that_lie_askew_in_memory_are_copied_out() -> None:
    header = json.dumps(
        {
            "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "askew": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    values = torch.tensor([1.5, -2.0])
    data = bytearray(struct.pack("<Q", len(header)) + header + b"\1\2\3" + values.numpy().tobytes())
    found = tensors_in(data)
    assert found["odd"].tolist() == [1, 2, 3]
    assert torch.equal(found["askew"], values)
