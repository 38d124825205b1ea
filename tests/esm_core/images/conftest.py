"""Small images and the three ways people store them."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esm_core.storage import Location

MakeImage = Callable[..., bytes]
WriteTar = Callable[[Path, Mapping[str, bytes]], Location]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """``make_image(seed)``: an encoded image of random pixels, other for another seed."""

    def make(seed: int = 0, size: tuple[int, int] = (12, 10), format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format)
        return stream.getvalue()

    return make


@pytest.fixture
def here(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path))


@pytest.fixture(scope="session")
def write_files() -> Callable[[Path, Mapping[str, bytes]], Location]:
    """``write_files(folder, {relative path: bytes})``."""

    def write(folder: Path, files: Mapping[str, bytes]) -> Location:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Location.parse(str(folder))

    return write


@pytest.fixture(scope="session")
def write_tar() -> WriteTar:
    """``write_tar(path, {member: bytes})``, members in the order given."""

    def write(path: Path, members: Mapping[str, bytes]) -> Location:
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return Location.parse(str(path))

    return write


@pytest.fixture(scope="session")
def label_json() -> Callable[[object], bytes]:
    return lambda label: json.dumps({"label": label, "caption": "a cat"}).encode()
