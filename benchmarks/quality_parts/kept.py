"""Files that are kept between runs: whole and as they were written, or made again."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

_DIGEST = hashlib.sha256().digest_size


def write_kept(path: Path, content: bytes) -> None:
    """Write a file with its sha256 behind it; whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may make the same file at once.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content + hashlib.sha256(content).digest())
    os.replace(temporary, path)


def read_kept(path: Path) -> bytes | None:
    """What :func:`write_kept` was given; None where the file is absent or damaged."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    content, digest = data[:-_DIGEST], data[-_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def kept_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors kept in a file, made and kept where they are not there or damaged."""
    content = read_kept(path)
    if content is None:
        content = save({name: tensor.contiguous() for name, tensor in make().items()})
        write_kept(path, content)
    return load(content)


def kept_json(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON value kept in a file, made and kept where it is not there or damaged."""
    content = read_kept(path)
    if content is None:
        content = json.dumps(make(), indent=1).encode()
        write_kept(path, content)
    return json.loads(content)
