import errno
import hashlib
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esm_core import InputError
from esm_core.errors import IntegrityError, TransientStorageError
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors


@pytest.fixture
def here(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path))


# Names of places.


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/data/x.pt", "file:///data/x.pt"),
        ("/data/", "file:///data"),
        ("/data//a/./b/../c", "file:///data/a/c"),
        ("file:///data/x.pt", "file:///data/x.pt"),
        ("file:///data/a/../b/", "file:///data/b"),
        ("/data/run #1/what? 100%.pt", "file:///data/run #1/what? 100%.pt"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/folder/", "s3://bucket/folder"),
        ("s3://bucket/a b#c", "s3://bucket/a b#c"),
        ("s3://bucket/me@home", "s3://bucket/me@home"),
    ],
)
def test_places_are_written_as_paths_or_urls(text: str, url: str) -> None:
    location = Location.parse(text)
    assert location.url == str(location) == url
    assert Location.parse(location.url) == location


def test_a_relative_path_is_taken_from_the_working_folder_or_the_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.parse("a/b").url == f"file://{tmp_path}/a/b"
    assert Location.parse("~/x").url == f"file://{Path.home()}/x"


@pytest.mark.parametrize(
    ("text", "base", "url"),
    [
        ("x.pt", "file:///data", "file:///data/x.pt"),
        ("../x.pt", "file:///data/a", "file:///data/x.pt"),
        ("./a//x/", "file:///data", "file:///data/a/x"),
        ("/x.pt", "file:///data", "file:///x.pt"),
        ("..", "file:///data", "file:///"),
        ("x.pt", "s3://bucket", "s3://bucket/x.pt"),
        ("../x.pt", "s3://bucket/a/b", "s3://bucket/a/x.pt"),
        ("../../../x.pt", "s3://bucket/a", "s3://bucket/x.pt"),
        ("..", "s3://bucket/a", "s3://bucket"),
        ("/x.pt", "s3://bucket/a", "file:///x.pt"),
        ("s3://other/x", "file:///data", "s3://other/x"),
        ("x.pt", "file:///data/run #1", "file:///data/run #1/x.pt"),
        ("x.pt", "file:///data/what?", "file:///data/what?/x.pt"),
        ("x.pt", "s3://bucket/run #1", "s3://bucket/run #1/x.pt"),
        ("run #1/x.pt", "file:///data", "file:///data/run #1/x.pt"),
    ],
)
def test_a_relative_path_joins_its_base(text: str, base: str, url: str) -> None:
    assert Location.parse(text, relative_to=Location(base)).url == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("gs://bucket/x", "gs:// is not supported"),
        ("https://host/x", "https:// is not supported"),
        ("s3://", "needs a bucket"),
        ("s3:///folder", "needs a bucket"),
        ("s3://[bucket]/folder", "bucket"),
        ("s3://key:secret@bucket/x", "carries credentials"),
        ("s3://bucket/x?X-Amz-Signature=secret", "carries credentials"),
        ("https://key:secret@host/x", "not supported"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_without_repeating_a_secret(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Location.parse(text)
    assert "secret" not in str(caught.value)


def test_parts_of_a_place() -> None:
    place = Location("s3://bucket/a") / "b/" / "c.txt"
    assert place.url == "s3://bucket/a/b/c.txt"
    assert (place.name, place.parent.url, place.path) == ("c.txt", "s3://bucket/a/b", "bucket/a/b/c.txt")
    assert not place.is_local
    assert Location("file:///a").is_local
    assert pickle.loads(pickle.dumps(place)) == place  # noqa: S301  our own bytes
    assert sorted([Location("s3://b"), Location("s3://a")])[0].url == "s3://a"


# Reading and writing.


def test_bytes_are_written_and_read_whole_or_in_part(here: Location) -> None:
    place = here / "new" / "folder" / "x"
    place.write_bytes(b"0123456789")
    assert place.read_bytes() == b"0123456789"
    assert place.read_bytes(2, 5) == b"234"
    assert place.read_bytes(start=8) == b"89"
    assert place.size() == 10
    assert place.sha256() == hashlib.sha256(b"0123456789").hexdigest()
    with place.open() as stream:
        stream.seek(7)
        assert stream.read() == b"789"
    room = bytearray(4)
    assert place.read_into(3, memoryview(room)) == 4
    assert room == b"3456"
    assert place.read_into(8, memoryview(room)) == 2
    assert room[:2] == b"89"
    place.write_bytes(b"")
    assert place.read_bytes() == b""


def test_files_children_and_kinds_of_places(here: Location) -> None:
    for name in ("b/y", "b/x", "a", "b/deep/z"):
        (here / name).write_bytes(b"1")
    assert here.files() == ["a", "b/deep/z", "b/x", "b/y"]
    assert here.children() == ["a", "b"]
    assert ((here / "a").is_file(), (here / "a").is_dir()) == (True, False)
    assert ((here / "b").is_file(), (here / "b").is_dir()) == (False, True)
    for nothing in (here / "absent", here / "a" / "below a file"):
        assert (nothing.is_file(), nothing.is_dir()) == (False, False)
        assert nothing.files() == nothing.children() == []
    with pytest.raises(InputError, match="is a folder, but a file was expected"):
        (here / "b").size()


def test_delete_removes_files_and_folders_and_nothing_else(here: Location) -> None:
    for name in ("keep", "folder/x", "file"):
        (here / name).write_bytes(b"1")
    for name in ("folder", "file", "absent"):
        (here / name).delete()
    assert here.files() == ["keep"]


@pytest.mark.parametrize("read", [Location.read_bytes, Location.size, Location.fingerprint, Location.sha256])
def test_what_is_not_there_is_named(here: Location, read: object) -> None:
    with pytest.raises(InputError, match=r"absent\.bin: no such file"):
        read(here / "absent.bin")  # type: ignore[operator]


def test_a_file_in_the_way_of_a_folder_is_an_input_error(here: Location) -> None:
    (here / "file").write_bytes(b"1")
    for write in (Location.write_bytes, Location.create):
        with pytest.raises(InputError, match="file/below"):
            write(here / "file" / "below" / "x", b"2")


def test_a_writer_leaves_nothing_when_its_block_raises(here: Location) -> None:
    def broken() -> None:
        with (here / "x").writer() as stream:
            stream.write(b"half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        broken()
    assert here.files() == []
    (here / "x").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="the power went"):
        broken()
    assert here.files() == ["x"]
    assert (here / "x").read_bytes() == b"old"


def test_a_file_appears_only_when_it_is_whole(here: Location) -> None:
    with (here / "x").writer() as stream:
        stream.write(b"half")
        stream.flush()
        assert not (here / "x").is_file()
        stream.write(b" and half")
    assert (here / "x").read_bytes() == b"half and half"
    assert here.files() == ["x"]


def test_create_has_exactly_one_winner(here: Location) -> None:
    for attempt in range(5):
        place = here / "race" / str(attempt)
        start = threading.Barrier(16)

        def run(number: int, place: Location = place, start: threading.Barrier = start) -> bool:
            start.wait()
            return place.create(f"{number}".encode() * 1000)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(run, range(16)))
        assert won.count(True) == 1
        assert place.read_bytes() == f"{won.index(True)}".encode() * 1000
    assert here.files() == [f"race/{attempt}" for attempt in range(5)]


def test_create_leaves_an_existing_file_alone(here: Location) -> None:
    assert (here / "x").create(b"first")
    assert not (here / "x").create(b"second")
    assert (here / "x").read_bytes() == b"first"


# Fingerprints.


def test_a_fingerprint_stays_while_nothing_changes(here: Location) -> None:
    (here / "folder" / "a").write_bytes(b"1")
    assert (here / "folder").fingerprint() == (here / "folder").fingerprint()
    assert (here / "folder" / "a").fingerprint() != (here / "folder").fingerprint()


def test_a_fingerprint_changes_with_the_content_even_where_size_and_time_are_kept(here: Location) -> None:
    place, path = here / "x", Path(here.path, "x")
    place.write_bytes(b"old")
    stamps, before = path.stat(), place.fingerprint()
    place.write_bytes(b"new")
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert place.fingerprint() != before


def test_a_fingerprint_of_a_folder_changes_with_any_file_below(here: Location) -> None:
    for name in ("a", "deep/b"):
        (here / name).write_bytes(b"1")
    seen = {here.fingerprint()}
    (here / "deep" / "b").write_bytes(b"2")
    seen.add(here.fingerprint())
    (here / "deep" / "c").write_bytes(b"")
    seen.add(here.fingerprint())
    os.rename(Path(here.path, "a"), Path(here.path, "z"))
    seen.add(here.fingerprint())
    (here / "z").delete()
    seen.add(here.fingerprint())
    assert len(seen) == 5


# Errors.


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


NoCredentialsError = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
EndpointConnectionError = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
ClientPayloadError = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (FileNotFoundError("x"), InputError, "no such file, folder or bucket"),
        (PermissionError("x"), InputError, "access refused.*AWS"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), InputError, "cannot read it: Is a directory"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), InputError, "cannot read it: Not a"),
        (FileExistsError("x"), InputError, "cannot read it: x"),
        (OSError(errno.ENOSPC, "No space left"), InputError, "the disk is full"),
        (OSError("something"), InputError, "something"),
        (NoCredentialsError("x"), InputError, "no AWS credentials were found"),
        (ConnectionResetError("reset"), TransientStorageError, "could not read it for now.*reset"),
        (ConnectionRefusedError(), TransientStorageError, "ConnectionRefusedError"),
        (BrokenPipeError(), TransientStorageError, "for now"),
        (TimeoutError("slow"), TransientStorageError, "slow"),
        (OSError(errno.EBUSY, "SlowDown"), TransientStorageError, "SlowDown"),
        (OSError(errno.EIO, "InternalError"), TransientStorageError, "InternalError"),
        (EndpointConnectionError("x"), TransientStorageError, "EndpointConnectionError"),
        (ClientPayloadError("x"), TransientStorageError, "ClientPayloadError"),
        (chained(OSError("wrapped"), TimeoutError()), TransientStorageError, "wrapped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_filesystem_raises_is_sorted_and_names_the_place(
    raised: Exception, kind: type[Exception], message: str
) -> None:
    place = Location("s3://bucket/x")
    with pytest.raises(kind, match=message) as caught, storage_errors(place, "read"):
        raise raised
    assert type(caught.value) is kind
    assert str(caught.value).startswith("s3://bucket/x: ")
    assert caught.value.__cause__ is raised
    # With Dask in the process an error is pickled with its cause, and these causes cannot be.
    caught.value.__cause__ = caught.value.__context__ = None
    copy = pickle.loads(pickle.dumps(caught.value.with_traceback(None)))  # noqa: S301  our own bytes
    assert (type(copy), str(copy)) == (kind, str(caught.value))


@pytest.mark.parametrize("error", [ValueError("a bug"), InputError("a. b."), IntegrityError("damaged.")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors(Location("s3://bucket/x"), "read"):
        raise error
    assert caught.value is error
