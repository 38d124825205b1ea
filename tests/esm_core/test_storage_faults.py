"""One place on an S3 endpoint that misbehaves: whole data or a clear error, in a bounded time."""

import hashlib
import os
import time
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from s3_proxy import Faults, FaultyProxy
from services import ACCESS_KEY, S3Server, free_ports

from esm_core import storage_s3
from esm_core.arrays import read_array, write_arrays
from esm_core.artifacts import copy_writer
from esm_core.checkpoints.safetensors_file import SafetensorsFile, write_safetensors
from esm_core.checkpoints.torch_file import local_copy
from esm_core.errors import InputError, TransientStorageError
from esm_core.storage import Location

pytestmark = [pytest.mark.s3, pytest.mark.fault]

MIB = 1024**2


@pytest.fixture(scope="module")
def shared(s3: S3Server) -> Location:
    return s3.bucket()


@pytest.fixture
def bucket(faulty_s3: FaultyProxy, shared: Location) -> Location:
    """An empty folder of a bucket behind the proxy, which does not misbehave yet."""
    return shared / uuid.uuid4().hex


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def copy_through_a_stream(place: Location) -> bytes:
    with (place.parent / "copy").writer() as stream:
        copy_writer(place)(stream)
    return (place.parent / "copy").read_bytes()


def read_in_pieces(place: Location) -> bytes:
    pieces = []
    with place.open() as stream:
        while piece := stream.read(10_000):
            pieces.append(piece)
    return b"".join(pieces)


def downloaded(place: Location) -> bytes:
    with local_copy(place) as path, open(path, "rb") as stream:
        return stream.read()


READERS: dict[str, Callable[[Location], bytes]] = {
    "whole": Location.read_bytes,
    "by ranges": lambda place: b"".join(place.read_bytes(i, i + 70_000) for i in range(0, 300_000, 70_000)),
    "as a stream": read_in_pieces,
    "copied": copy_through_a_stream,
    "downloaded": downloaded,
}
FAULTS = ["error_500", "slow_down", "reset_before", "reset_after", "truncate"]


# Faults that pass.


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_is_whole_under_every_fault(
    bucket: Location, faulty_s3: FaultyProxy, reader: str, fault: str
) -> None:
    place = bucket / "file"
    place.write_bytes(noise(300_000))
    faulty_s3.faults = Faults(script=[fault, ""], only=("GetObject",))
    assert READERS[reader](place) == noise(300_000)
    assert faulty_s3.injected == {fault: 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_survives_a_fault(bucket: Location, faulty_s3: FaultyProxy, fault: str) -> None:
    def once() -> None:
        faulty_s3.faults = Faults(script=[fault])

    place = bucket / "folder" / "file"
    once()
    place.write_bytes(b"content")
    once()
    assert place.size() == 7
    once()
    assert (place.is_file(), (bucket / "absent").is_file()) == (True, False)
    once()
    assert (bucket / "folder").files() == ["file"]
    once()
    assert bucket.children() == ["folder"]
    once()
    before = place.fingerprint()
    once()
    assert place.fingerprint() == before
    once()
    (bucket / "folder").delete()
    faulty_s3.faults = Faults()
    assert bucket.files() == []
    assert faulty_s3.injected[fault] == 8 or fault == "truncate"  # some answers have no body to truncate


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_in_parts_is_whole_or_not_there(
    bucket: Location, faulty_s3: FaultyProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "PART_BYTES", 5 * MIB)
    data = noise(23 * MIB)
    # Creation, five parts and completion: each meets the fault once.
    faulty_s3.faults = Faults(script=[fault, ""] * 7)
    with (bucket / "large").writer() as stream:
        for first in range(0, len(data), 3 * MIB):
            stream.write(data[first : first + 3 * MIB])
    assert faulty_s3.injected[fault] == 7 or fault == "truncate"  # the answer to a part has no body
    faulty_s3.faults = Faults(only=("GetObject",), script=["", fault, fault, "", fault])
    assert hashlib.sha256((bucket / "large").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert (bucket / "large").sha256() == hashlib.sha256(data).hexdigest()


def test_an_upload_whose_completion_is_done_but_never_answered_is_there(
    bucket: Location, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "PART_BYTES", 5 * MIB)
    faulty_s3.faults = Faults(only=("CompleteMultipartUpload",), script=["reset_after", "reset_after"])
    with (bucket / "large").writer() as stream:
        stream.write(noise(11 * MIB))
    assert faulty_s3.requests["CompleteMultipartUpload"] == 3
    assert (bucket / "large").read_bytes() == noise(11 * MIB)


def test_a_writer_that_fails_leaves_nothing_and_cleans_up(
    bucket: Location, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "PART_BYTES", 5 * MIB)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    faulty_s3.faults = Faults(only=("UploadPart",), script=["", *["error_500"] * 9])
    with pytest.raises(TransientStorageError, match="large"), (bucket / "large").writer() as stream:
        stream.write(noise(11 * MIB))
    assert faulty_s3.requests["AbortMultipartUpload"] == 1
    assert bucket.files() == []


@pytest.mark.parametrize("fault", ["reset_after", "error_500", "reset_before"])
def test_a_creation_whose_answer_is_lost_is_won_by_who_wrote_it(
    bucket: Location, faulty_s3: FaultyProxy, fault: str
) -> None:
    faulty_s3.faults = Faults(only=("PutObject",), script=[fault, fault])
    assert (bucket / "claim").create(b"mine")
    assert not (bucket / "claim").create(b"theirs")
    faulty_s3.faults = Faults(only=("PutObject",), script=[fault])
    assert not (bucket / "claim").create(b"theirs")
    assert (bucket / "claim").read_bytes() == b"mine"


def test_a_creation_that_is_never_answered_is_settled_by_reading(
    bucket: Location, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    faulty_s3.faults = Faults(only=("PutObject",), reset_after=1.0)
    assert (bucket / "claim").create(b"mine")
    faulty_s3.faults = Faults(only=("PutObject",), reset_before=1.0)
    assert not (bucket / "claim").create(b"theirs")
    with pytest.raises(TransientStorageError, match="other-claim: could not write it for now"):
        (bucket / "other-claim").create(b"mine")


def test_creators_have_one_winner_under_faults(bucket: Location, faulty_s3: FaultyProxy) -> None:
    faulty_s3.faults = Faults(error_500=0.1, reset_after=0.15, reset_before=0.05)
    for number in range(3):
        place = bucket / f"claim-{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i, place=place: place.create(str(i).encode()), range(8)))
        assert won.count(True) == 1
        assert place.read_bytes() == str(won.index(True)).encode()
    assert faulty_s3.injected.total() > 3


@pytest.mark.parametrize("fault", FAULTS)
def test_zarr_is_not_misled_by_faults(bucket: Location, faulty_s3: FaultyProxy, fault: str) -> None:
    values = np.random.default_rng(0).normal(size=(40, 7))
    faulty_s3.faults = Faults(script=[fault, ""] * 8)
    write_arrays(bucket / "group", {"layer/factor": values, "layer/mean": values[0]})
    faulty_s3.faults = Faults(script=[fault, ""] * 8)
    assert np.array_equal(read_array(bucket / "group", "layer/factor"), values)
    assert faulty_s3.injected[fault] > 3


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("only_chunks", [True, False])
def test_a_chunk_that_cannot_be_read_is_not_taken_for_damaged_or_missing(
    bucket: Location,
    faulty_s3: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    only_chunks: bool,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    write_arrays(bucket / "group", {"a": np.ones(1000)})
    passed = ["", ""] if only_chunks else []  # the descriptions of group and array
    faulty_s3.faults = Faults(script=passed + [fault] * 30)
    with pytest.raises(TransientStorageError, match="could not read it for now") as caught:
        read_array(bucket / "group", "a")
    assert "Delete" not in str(caught.value)
    faulty_s3.faults = Faults(script=[] if fault == "truncate" else [fault] * 30)
    if fault != "truncate":  # answers to writes have no body
        with pytest.raises(TransientStorageError, match="could not write it for now"):
            write_arrays(bucket / "group", {"b": np.ones(1000)})


def test_a_safetensors_file_is_written_and_read_under_faults(
    bucket: Location, faulty_s3: FaultyProxy
) -> None:
    import torch

    from esm_core.checkpoints.base import TensorInfo

    values = {f"w{i}": torch.randn(40, 30, generator=torch.Generator().manual_seed(i)) for i in range(10)}
    infos = {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in values.items()}
    place = bucket / "model.safetensors"
    faulty_s3.faults = Faults(error_500=0.1, reset_before=0.1, reset_after=0.1, truncate=0.1)
    size, digest = write_safetensors(place, infos, values.__getitem__)
    file = SafetensorsFile(place)
    assert all(torch.equal(file.read(name), value) for name, value in values.items())
    assert (place.size(), place.sha256()) == (size, digest)
    assert faulty_s3.injected.total() > 2


# Faults that stay.


def test_a_body_that_never_comes_whole_is_given_up_and_is_no_data(
    bucket: Location, faulty_s3: FaultyProxy
) -> None:
    place = bucket / "file"
    place.write_bytes(noise(100_000))
    faulty_s3.requests.clear()
    faulty_s3.faults = Faults(truncate=1.0, only=("GetObject",))
    for reader in ("whole", "as a stream"):
        faulty_s3.requests.clear()
        with pytest.raises(TransientStorageError, match="file: could not read it for now"):
            READERS[reader](place)
        assert faulty_s3.requests["GetObject"] == storage_s3.BODY_ATTEMPTS
    with pytest.raises(TransientStorageError), (bucket / "copy").writer() as stream:
        copy_writer(place)(stream)
    faulty_s3.faults = Faults()
    assert bucket.files() == ["file"]


def test_an_object_replaced_while_it_is_read_is_never_mixed(bucket: Location) -> None:
    place = bucket / "file"
    place.write_bytes(noise(20 * MIB))
    with place.open() as stream:
        stream.read(10)
        place.write_bytes(bytes(20 * MIB))
        with pytest.raises(InputError, match=r"file: .* replaced while it was read"):
            stream.read()


def test_a_stalled_connection_is_given_up(
    bucket: Location, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "READ_TIMEOUT", 0.5)
    (bucket / "file").write_bytes(b"content")
    faulty_s3.faults = Faults(script=["stall"], stall_seconds=30)
    started = time.monotonic()
    assert (bucket / "file").read_bytes() == b"content"
    assert time.monotonic() - started < 5


def test_a_short_stall_costs_no_repetition(bucket: Location, faulty_s3: FaultyProxy) -> None:
    (bucket / "file").write_bytes(b"content")
    faulty_s3.requests.clear()
    faulty_s3.faults = Faults(script=["stall"])
    assert (bucket / "file").read_bytes() == b"content"
    assert faulty_s3.requests == {"GetObject": 1}


@pytest.mark.slow
def test_an_endpoint_that_is_down_is_given_up_within_the_stated_time(
    bucket: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    started = time.monotonic()
    with pytest.raises(TransientStorageError, match=r"file: could not read it for now .*connect"):
        (bucket / "file").read_bytes()
    assert time.monotonic() - started < 32


def test_the_environment_sets_the_number_of_attempts(
    bucket: Location, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    faulty_s3.faults = Faults(error_500=1.0)
    with pytest.raises(TransientStorageError):
        (bucket / "file").size()
    assert faulty_s3.requests == {"HeadObject": 3}


@pytest.mark.slow
def test_a_failing_operation_sends_as_many_requests_as_stated(
    bucket: Location, faulty_s3: FaultyProxy
) -> None:
    faulty_s3.faults = Faults(slow_down=1.0)
    for operation in (Location.size, Location.read_bytes, lambda place: place.write_bytes(b"x")):
        faulty_s3.requests.clear()
        with pytest.raises(TransientStorageError):
            operation(bucket / "file")
        assert faulty_s3.requests.total() == storage_s3.ATTEMPTS


# Refusals.

OPERATIONS: dict[str, tuple[str, Callable[[Location], object]]] = {
    "read": ("GetObject", Location.read_bytes),
    "size": ("HeadObject", Location.size),
    "stream": ("HeadObject", Location.open),
    "write": ("PutObject", lambda place: place.write_bytes(b"x")),
    "create": ("PutObject", lambda place: place.create(b"x")),
    "list": ("ListObjectsV2", Location.files),
    "children": ("ListObjectsV2", Location.children),
    "delete": ("DeleteObjects", Location.delete),
    "arrays": ("PutObject", lambda place: write_arrays(place, {"a": np.ones(3)})),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_final_at_once_and_names_bucket_and_operation(
    bucket: Location, faulty_s3: FaultyProxy, name: str
) -> None:
    operation, act = OPERATIONS[name]
    name_of_bucket = bucket.path.split("/")[0]
    (bucket / "file").write_bytes(b"content")
    faulty_s3.reset_counts()
    faulty_s3.faults = Faults(refused=(operation,))
    with pytest.raises(
        InputError, match=f"access refused .*{operation} on bucket {name_of_bucket} "
    ) as caught:
        act(bucket / "file")
    assert not isinstance(caught.value, TransientStorageError)
    assert faulty_s3.requests[operation] == 1
    assert faulty_s3.requests.total() <= 4


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", "new temporary credentials"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", "clock"),
    ],
)
def test_credentials_that_do_not_work_have_a_remedy_and_are_not_echoed(
    bucket: Location, faulty_s3: FaultyProxy, code: str, remedy: str
) -> None:
    extra = f" Key {ACCESS_KEY} of https://x/?X-Amz-Signature=abcdef123&X-Amz-Credential=AKIAABCDEFGHIJKLMNOP"
    faulty_s3.faults = Faults(refused=("*",), refusal=code, refusal_extra=extra.replace("&", "&amp;"))
    with pytest.raises(InputError, match=remedy) as caught:
        (bucket / "file").read_bytes()
    assert code in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    for secret in (ACCESS_KEY, "abcdef123", "AKIAABCDEFGHIJKLMNOP", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in told
    assert faulty_s3.requests == {"GetObject": 1}


@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
def test_the_real_server_refuses_wrong_credentials(
    bucket: Location, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, "wrong-credential-7c1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")  # another instance, with other credentials
    with pytest.raises(InputError, match=f"GetObject on bucket .* {code}.*{variable}"):
        (bucket / "file").read_bytes()


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    with pytest.raises(
        InputError, match=r"GetObject on bucket no-such-bucket.*NoSuchBucket.*Create the bucket"
    ):
        Location("s3://no-such-bucket/file").read_bytes()
