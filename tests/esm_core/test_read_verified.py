"""What is read of a version is what was published, byte for byte, or nothing."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from services import S3Server

from esm_core import artifacts
from esm_core.artifacts import Version, bytes_writer, publish_version, read_verified
from esm_core.errors import InputError, IntegrityError
from esm_core.storage import Location

CONTENT = random.Random(0).randbytes(1000)


def published(store: Location, content: bytes = CONTENT) -> Version:
    return publish_version(store, "pets", {"model/weights": bytes_writer(content)}, {})


@pytest.fixture(params=[1, 7, 250, 999, 1000, 1001])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(artifacts, "_PIECE", request.param)
    return int(request.param)


def test_the_bytes_are_those_that_were_published(piece: int, tmp_path: Path) -> None:
    assert read_verified(published(Location.parse(str(tmp_path))), "model/weights") == CONTENT


def test_a_file_of_no_bytes_is_read_too(tmp_path: Path) -> None:
    assert read_verified(published(Location.parse(str(tmp_path)), b""), "model/weights") == b""


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "shorter": lambda data: data[:-1],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "pieces swapped": lambda data: data[500:] + data[:500],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_any_other_bytes_are_refused(piece: int, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    version = published(Location.parse(str(tmp_path)))
    (version.folder / "model/weights").write_bytes(damage(CONTENT))
    with pytest.raises(IntegrityError, match="weights: is damaged: its sha256 is not the published one"):
        read_verified(version, "model/weights")


def test_a_file_that_is_gone_or_was_never_there_is_named(tmp_path: Path) -> None:
    version = published(Location.parse(str(tmp_path)))
    (version.folder / "model/weights").delete()
    with pytest.raises(InputError, match="weights"):
        read_verified(version, "model/weights")
    with pytest.raises(InputError, match="others is not part of this version"):
        read_verified(version, "others")


@pytest.mark.s3
def test_bytes_on_s3_are_verified_alike(s3: S3Server) -> None:
    version = published(s3.bucket() / "store")
    assert read_verified(version, "model/weights") == CONTENT
    for damage in DAMAGE.values():
        (version.folder / "model/weights").write_bytes(damage(CONTENT))
        with pytest.raises(IntegrityError, match="is damaged"):
            read_verified(version, "model/weights")
