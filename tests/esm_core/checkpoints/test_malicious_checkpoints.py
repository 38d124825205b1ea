"""Checkpoints made to harm: refused with a clear error, quickly, and without taking the memory they claim."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from bounded import opened_in_bounds

pytestmark = pytest.mark.fault

BOUND = 700 * 2**20
"""What a header of 16 MB may take as JSON; a merge takes more."""


def safetensors(path: Path, header: bytes | dict[str, Any], length: int | None = None) -> Path:
    """A file with a header, which may claim another length, and 16 bytes of data."""
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))
    return path


def sparse(path: Path, size: int) -> Path:
    """Make a file look large without storing anything."""
    with path.open("r+b") as stream:
        stream.truncate(size)
    return path


def tensor(begin: object, end: object, shape: object = (2,), dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def headers() -> dict[str, bytes | dict[str, Any]]:
    """Name of the attack → header of a file with 16 bytes of data."""
    same = json.dumps(tensor(0, 8))
    return {
        "overlapping": {"a": tensor(0, 8), "b": tensor(4, 12), "c": tensor(12, 16, [1])},
        "the same bytes twice": {"a": tensor(0, 16, [4]), "b": tensor(0, 16, [4])},
        "a hole": {"a": tensor(0, 4, [1]), "b": tensor(12, 16, [1])},
        "beyond the file": {"a": tensor(0, 2**40, [2**38])},
        "backwards": {"a": tensor(16, 0)},
        "negative begin": {"a": tensor(-8, 0)},
        "negative size": {"a": tensor(0, 16, [-2, -2])},
        "overflowing offsets": {"a": tensor(2**64 - 8, 2**64)},
        "overflowing shape": {"a": tensor(0, 16, [2**32, 2**32, 4])},
        "zero times huge": {"a": tensor(0, 0, [0, 2**63])},
        "5000 digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
        "floats": {"a": tensor(0.0, 16.0, [4.0])},
        "infinity": b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,16]}}',
        "booleans": {"a": tensor(False, True, [True])},
        "a thousand dimensions": {"a": tensor(0, 16, [1] * 1000 + [4])},
        "a name twice": f'{{"a":{same},"a":{same}}}'.encode(),
        "metadata twice": b'{"__metadata__":{},"__metadata__":{"a":"b"}}',
        "a key of an entry twice": b'{"a":{"dtype":"F32","dtype":"F64","shape":[4],"data_offsets":[0,16]}}',
        "nested lists": b'{"a":' + b"[" * 2**20,
        "nested objects": b'{"a":' * 2**20,
        "another type": b"[" + b"0," * 1000 + b"0]",
        "no UTF-8": b'{"\xff\xfe":1}',
        "a long string": b'{"' + b"a" * (8 * 2**20) + b'":1}',
        "many small entries": b'{"a":[' + b"[]," * (5 * 2**20) + b"[]]}",
        "many names": b"{" + b",".join(b'"%d":0' % n for n in range(2**20)) + b"}",
    }


def test_headers_of_safetensors(tmp_path: Path) -> None:
    paths = [safetensors(tmp_path / name, header) for name, header in headers().items()]
    for length in (2**63, 2**64 - 1, 2**32, 99_999_999, 17 * 2**20):
        path = safetensors(tmp_path / f"length {length}.safetensors", b"{}", length)
        paths.append(sparse(path, 200 * 2**20))
    for name, refusal in opened_in_bounds("checkpoint", paths).items():
        assert refusal.outcome.startswith(f"InputError: file://{tmp_path}/{name}: "), (name, refusal.outcome)
        assert len(refusal.outcome) < 1000, "the message repeats the attack"
        assert refusal.took < BOUND, (name, refusal.took)


def test_archives_of_torch(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, saved)
    paths = []
    for member, size in (("data.pkl", 2**28), ("data/0", 2**28), ("version", 2**28)):
        path = tmp_path / f"{member.replace('/', '-')} compressed.pt"
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.namelist():
                if not entry.endswith(member):
                    new.writestr(entry, old.read(entry))
                    continue
                with new.open(entry, "w") as stream:
                    for _ in range(size // 2**20):
                        stream.write(bytes(2**20))
        assert path.stat().st_size < 2**20
        paths.append(path)
    claimed = tmp_path / "stride.pt"
    torch.save({"a": torch.zeros(1).expand(2**40)}, claimed)
    paths.append(claimed)
    for name, refusal in opened_in_bounds("checkpoint", paths).items():
        assert refusal.outcome.startswith(f"InputError: file://{tmp_path}/{name}: "), (name, refusal.outcome)
        assert refusal.took < 64 * 2**20, (name, refusal.took)
