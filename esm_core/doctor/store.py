"""Whether a store can be used, found out by using it: write, read, create once, list, delete.

The probe works in a folder of its own in the store and removes it, whatever happens. Each request is sent
once, so an endpoint that does not answer is reported in seconds.
"""

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from esm_core.doctor.check import Check, attempt
from esm_core.errors import EsmergeError, InputError
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors
from esm_core.store import check_store

RACERS = 8
"""How many try to create the same file at the same moment."""

_LOCAL = "Give a folder that this user may write, or change its permissions."
_S3 = (
    "Check bucket, AWS_ENDPOINT_URL, credentials or AWS_PROFILE, and permissions: docs/storage.md lists them."
)
_FIRST, _SECOND = b"esmerge doctor, first", b"esmerge doctor, second"


def check_the_store(store: Location) -> list[Check]:
    """Everything a merge does with a store, done once.

    Returns
    -------
    list of Check
        Of format, write, read, create, list, delete. Where nothing can be written the rest is only whether
        the store can be listed.
    """
    do = _LOCAL if store.is_local else _S3
    with impatience(store):
        before = attempt("store", lambda: _described(store), do)
        if before.status == "fail":
            return [before]
        folder, missing = store / f"probe-{uuid.uuid4().hex}", _missing_folders(store)
        try:
            return [before, *_steps(store, folder, do)]
        finally:
            _clean(folder, missing)


def _steps(store: Location, folder: Location, do: str) -> Iterator[Check]:
    written = attempt("store: write", _timed(lambda: _write(folder)), do)
    yield written
    if written.status == "fail":
        yield attempt("store: list", lambda: _list_only(store), do)
        return
    yield attempt("store: read", _timed(lambda: _read(folder)), do)
    yield attempt("store: create once", _timed(lambda: _race(folder)), do)
    yield attempt("store: list", _timed(lambda: _list(folder)), do)
    yield attempt("store: delete", _timed(lambda: _delete(folder)), f"Allow it, and remove {folder}.")


def _described(store: Location) -> str:
    if store.is_local:
        folder = store.path
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        state = "" if folder == store.path else ", not made yet"
        check_store(store)
        return f"{store}{state}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
    from esm_core.storage_s3 import bucket_is_missing, filesystem

    bucket = store.path.split("/")[0]
    with storage_errors(store, "look up"):
        if bucket_is_missing(filesystem(), store.path):
            raise InputError(
                f"{store}: HeadBucket on bucket {bucket} was answered 404: there is no such bucket."
            )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    check_store(store)
    return f"{store} at {endpoint.rpartition('@')[2]}"


def _write(folder: Location) -> str:
    for data in (_SECOND, _FIRST):
        (folder / "written").write_bytes(data)
    return "written and replaced"


def _read(folder: Location) -> str:
    whole, part = (folder / "written").read_bytes(), (folder / "written").read_bytes(8, 14)
    if whole != _FIRST or part != _FIRST[8:14]:
        raise InputError(f"{folder / 'written'}: other bytes were read than written.")
    return "the bytes that were written, whole and by range"


def _race(folder: Location) -> str:
    place, start = folder / "created", threading.Barrier(RACERS)

    def create(number: int) -> bool:
        start.wait(30)
        return place.create(f"esmerge doctor, racer {number}".encode())

    with ThreadPoolExecutor(RACERS) as pool:
        racing = [pool.submit(copy_context().run, create, number) for number in range(RACERS)]
        winners = [number for number, race in enumerate(racing) if race.result()]
    if len(winners) != 1:
        raise InputError(
            f"{place}: {len(winners)} of {RACERS} concurrent creations were told that they made it, but just "
            "one must be. The server ignores `If-None-Match: *`: two merges could publish the same version. "
            "Use a storage that honours conditional writes, as AWS does."
        )
    if place.read_bytes() != f"esmerge doctor, racer {winners[0]}".encode() or place.create(_SECOND):
        raise InputError(f"{place}: a file that was there was created again. Use another storage.")
    return f"{RACERS} at the same moment, one winner"


def _list(folder: Location) -> str:
    found = folder.files()
    if found != ["created", "written"]:
        raise InputError(
            f"{folder}: a listing shows {found}, not what was just written. Use another storage."
        )
    return "what was just written is listed"


def _list_only(store: Location) -> str:
    if not store.is_dir():
        raise InputError(f"{store}: no such folder or bucket, so there is nothing to load from it either.")
    return f"{len(store.children())} entries: what is published there can be loaded, but nothing merged"


def _delete(folder: Location) -> str:
    folder.delete()
    if (folder / "written").is_file():
        raise InputError(f"{folder / 'written'}: is there although it was deleted.")
    return "deleted; nothing is left of the probe"


def _timed(step: Callable[[], str]) -> Callable[[], str]:
    def run() -> str:
        started = time.monotonic()
        return f"{step()} ({time.monotonic() - started:.2f} s)"

    return run


@contextlib.contextmanager
def impatience(place: Location) -> Iterator[None]:
    """Within, requests to ``place`` are sent once and waited for a few seconds."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError):  # said when the store is first asked
            if not place.is_local:
                from esm_core.storage_s3 import impatient

                stack.enter_context(impatient())
        yield


def _missing_folders(store: Location) -> list[str]:
    """Local folders, the innermost first, that writing the store makes."""
    missing, folder = [], store.path if store.is_local else "/"
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _clean(folder: Location, missing: list[str]) -> None:
    with contextlib.suppress(EsmergeError):
        if folder.is_dir():
            folder.delete()
    for path in missing:
        with contextlib.suppress(OSError):
            os.rmdir(path)
