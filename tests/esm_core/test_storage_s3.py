"""Locations, arrays and versions on a real S3 server."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from services import S3Server

from esm_core.arrays import read_array, write_arrays
from esm_core.artifacts import bytes_writer, open_version, publish_version, verify_version, version_numbers
from esm_core.errors import InputError, IntegrityError
from esm_core.storage import Location

pytestmark = pytest.mark.s3


@pytest.fixture
def bucket(s3: S3Server) -> Location:
    return s3.bucket()


def test_a_large_file_is_written_in_parts_and_read_back(bucket: Location) -> None:
    piece = np.random.default_rng(0).bytes(1024**2)
    target, digest = bucket / "folder" / "large.bin", hashlib.sha256()
    with target.writer() as stream:
        for _ in range(120):
            stream.write(piece)
            digest.update(piece)
    assert target.size() == 120 * 1024**2
    assert target.sha256() == digest.hexdigest()
    assert target.read_bytes(1024**2 - 2, 1024**2 + 2) == piece[-2:] + piece[:2]


def test_memory_is_filled_by_requests_of_a_limited_size(
    bucket: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, place = np.random.default_rng(0).bytes(2500), bucket / "some.bin"
    place.write_bytes(data)
    monkeypatch.setattr("esm_core.storage._STEP", 1000)
    target = bytearray(2400)
    assert place.read_into(50, memoryview(target)) == 2400
    assert bytes(target) == data[50:2450]
    assert place.read_into(1000, memoryview(target)) == 1500
    assert bytes(target[:1500]) == data[1000:]


@pytest.mark.parametrize("size", [10, 120 * 1024**2])
def test_a_write_that_fails_leaves_nothing(bucket: Location, size: int) -> None:
    def write_and_fail() -> None:
        with (bucket / "half.bin").writer() as stream:
            stream.write(bytes(size))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert not (bucket / "half.bin").is_file()
    assert bucket.files() == []


def test_sixteen_creators_have_one_winner(bucket: Location) -> None:
    place = bucket / "claim.json"
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: place.create(str(i).encode()), range(16)))
    assert won.count(True) == 1
    assert place.read_bytes() == str(won.index(True)).encode()


def test_concurrent_publishers_each_get_a_version(bucket: Location) -> None:
    def publish(index: int) -> int:
        files = {"model/weights.bin": bytes_writer(bytes([index]) * 1000)}
        return publish_version(bucket, "pets", files, {"identity": str(index)}).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(publish, range(8)))
    assert sorted(numbers) == version_numbers(bucket, "pets") == list(range(1, 9))
    for index, number in enumerate(numbers):
        version = open_version(bucket, "pets", number)
        verify_version(version)
        assert version.manifest["identity"] == str(index)


def test_arrays_come_back_and_a_damaged_chunk_is_refused(bucket: Location) -> None:
    values = np.random.default_rng(0).normal(size=(40, 7))
    write_arrays(bucket / "group", {"layer/factor": values})
    assert np.array_equal(read_array(bucket / "group", "layer/factor"), values)
    (chunk,) = [name for name in (bucket / "group").files() if "/c/" in name]
    data = bytearray((bucket / "group" / chunk).read_bytes())
    data[100] ^= 1
    (bucket / "group" / chunk).write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="Delete the folder"):
        read_array(bucket / "group", "layer/factor")


def test_what_is_not_there_is_named(bucket: Location) -> None:
    with pytest.raises(InputError, match=r"absent\.bin: no such file"):
        (bucket / "absent.bin").read_bytes()
    assert not (bucket / "absent.bin").is_file()
    assert (bucket / "nothing").files() == []
    assert (bucket / "nothing").children() == []
    (bucket / "nothing").delete()


def test_the_fingerprint_follows_the_content_and_not_the_time(bucket: Location) -> None:
    place = bucket / "file"
    place.write_bytes(b"one")
    first = place.fingerprint()
    place.write_bytes(b"one")
    assert place.fingerprint() == first
    place.write_bytes(b"two")
    assert place.fingerprint() != first
