"""Writing safetensors: loadable by the library, the same bytes every time, one tensor at a time."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from esm_core.checkpoints import SafetensorsFile, TensorInfo, write_safetensors
from esm_core.errors import InputError


def info_of(tensors):
    return {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}


TENSORS = {
    "a.flags": torch.tensor([True, False, True]),
    "b.odd": torch.arange(5, dtype=torch.int8),
    "c.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "d.half": torch.ones(3, dtype=torch.bfloat16),
    "e.scalar": torch.tensor(1.5, dtype=torch.float64),
    "f.empty": torch.zeros(0, 2),
    "g.ünï": torch.ones(2),
}


def test_the_library_loads_what_is_written(folder):
    location = folder / "out" / "model.safetensors"
    size, sha256 = write_safetensors(location, info_of(TENSORS), TENSORS.__getitem__, '{"made": "by me"}')
    data = location.read_bytes()
    assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())
    loaded = load_file(location.path)
    assert set(loaded) == set(TENSORS)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(location.path, framework="pt") as opened:
        assert opened.metadata() == {"esmerge": '{"made": "by me"}'}
    own = SafetensorsFile(location)
    assert list(own.tensors) == list(TENSORS)
    assert all(torch.equal(own.read(name), tensor) for name, tensor in TENSORS.items())


def test_the_header_ends_at_a_multiple_of_eight_and_without_metadata_has_none(folder):
    for length in range(1, 9):
        location = folder / "model.safetensors"
        write_safetensors(location, {"n" * length: TensorInfo((1,), torch.float32)}, lambda _: torch.ones(1))
        data = location.read_bytes()
        header = int.from_bytes(data[:8], "little")
        assert header % 8 == 0
        assert "__metadata__" not in json.loads(data[8 : 8 + header])


def test_transposed_and_tied_tensors_are_written_by_value(folder):
    matrix = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": matrix.T, "b": matrix, "c": matrix[0].requires_grad_()}
    write_safetensors(folder / "model.safetensors", info_of(tensors), tensors.__getitem__)
    loaded = load_file((folder / "model.safetensors").path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_the_bytes_are_the_same_in_another_process(folder):
    script = (
        "import sys, torch; from esm_core.checkpoints import TensorInfo, write_safetensors;"
        "from esm_core.storage import Location;"
        "info = {n: TensorInfo((2,), torch.float32) for n in 'abc'};"
        "print(write_safetensors(Location.parse(sys.argv[1]), info, lambda _: torch.ones(2), 'text')[1])"
    )
    info = {name: TensorInfo((2,), torch.float32) for name in "abc"}
    _, here = write_safetensors(folder / "1.safetensors", info, lambda _: torch.ones(2), "text")
    command = [sys.executable, "-c", script, (folder / "2.safetensors").path]
    there = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert here == there


def test_a_reader_that_breaks_its_word_leaves_no_file(folder):
    location, info = folder / "model.safetensors", {"a": TensorInfo((2,), torch.float32)}
    with pytest.raises(ValueError, match=r"a: got torch.float32 \(3,\), expected torch.float32 \(2,\)"):
        write_safetensors(location, info, lambda _: torch.ones(3))
    assert folder.children() == []


def test_a_dtype_without_a_name_is_refused(folder):
    info = {"a": TensorInfo((2,), torch.complex64)}
    with pytest.raises(InputError, match=r"'a' \(torch.complex64\) cannot be stored in a safetensors file"):
        write_safetensors(folder / "model.safetensors", info, lambda _: torch.ones(2))
