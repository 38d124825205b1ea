"""Many publishers, readers, promotions and a garbage collector at once, on a real S3 server."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO

import pytest
from collecting import collecting
from services import S3Server
from versions import digest, make_version

from esm_core.artifacts import (
    Version,
    bytes_writer,
    open_version,
    publish_version,
    read_verified,
    read_version,
    verify_version,
    version_numbers,
)
from esm_core.channels import history, promote
from esm_core.errors import EsmergeError
from esm_core.gc.collect import collect
from esm_core.gc.delete import delete
from esm_core.gc.flag import STALE
from esm_core.gc.report import Policy
from esm_core.stages import canonical_json, write_marker
from esm_core.storage import Location

pytestmark = [pytest.mark.s3, pytest.mark.fault]

PUBLISHER = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "tests")
from versions import make_version
from esm_core.storage import Location
store, first, rounds = Location(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()

def publish(thread):
    return [make_version(store, seed=first + 100 * thread + i).number for i in range(rounds)]

with ThreadPoolExecutor(4) as pool:
    print([number for numbers in pool.map(publish, range(4)) for number in numbers])
"""


@pytest.fixture
def store(s3: S3Server) -> Location:
    return s3.bucket() / "store"


@contextmanager
def sixteen_publishers(store: Location, rounds: int) -> Iterator[list[int]]:
    """Publish ``rounds`` versions each beside the block: eight threads here, four in two other processes.

    The list holds the numbers they were given, after the block.
    """
    numbers: list[int] = []
    with ExitStack() as stack:
        processes = []
        for index in range(2):
            command = [sys.executable, "-c", PUBLISHER, store.url, str(1000 * index), str(rounds)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
            )
            processes.append(stack.enter_context(process))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        pool = stack.enter_context(ThreadPoolExecutor(8))
        own = [
            pool.submit(lambda first: [make_version(store, seed=first + i).number for i in range(rounds)], n)
            for n in range(5000, 5800, 100)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        try:
            yield numbers
        finally:
            for process in processes:
                out, _ = process.communicate(timeout=200)
                assert process.returncode == 0
                numbers.extend(int(number) for number in out.strip("[]\n").split(", "))
            numbers.extend(number for future in own for number in future.result())


def content(version: Version) -> tuple[int, int]:
    """Number and seed of a version whose every byte was read and belongs to it."""
    seed = version.manifest["seed"]
    for path in version.manifest["files"]:
        assert int.from_bytes(read_verified(version, path)[:4], "big") == seed, "a mixed version"
    return version.number, seed


def test_sixteen_publishers_publish_sixteen_versions(store: Location) -> None:
    with sixteen_publishers(store, rounds=1) as numbers:
        pass
    assert sorted(numbers) == version_numbers(store, "pets") == list(range(1, 17))
    seeds = set()
    for number in numbers:
        version = open_version(store, "pets", number)
        verify_version(version)
        seeds.add(content(version)[1])
    assert len(seeds) == 16, "every publisher's version is there"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readers_see_whole_versions_beside_publishers_and_gc(store: Location) -> None:
    """1,000 loads of ``latest`` and ``stable`` while both move and gc deletes whatever they left."""
    make_version(store, seed=7)
    promote(store, "pets", 1, "stable")
    left, lock, ended = [1000], threading.Lock(), threading.Event()

    def read(which: str) -> list[int]:
        seen = []
        while True:
            with lock:
                if left[0] == 0:
                    return seen
                left[0] -= 1
            seen.append(read_version(store, "pets", which, content)[0])

    def move_the_channel() -> None:
        while not ended.wait(0.2):
            promote(store, "pets", "latest", "stable")

    with (
        collecting(store, keep=2) as collected,
        sixteen_publishers(store, rounds=4) as numbers,
        ThreadPoolExecutor(9) as pool,
    ):
        mover = pool.submit(move_the_channel)
        readers = [pool.submit(read, which) for which in ("latest", "stable") * 4]
        loads = [reader.result() for reader in readers]
        ended.set()
        mover.result()
    assert sum(map(len, loads)) == 1000
    assert len(set(numbers)) == 64, "a number was given twice"
    assert max(numbers) == 65
    for seen in loads[::2]:
        assert seen == sorted(seen), "latest went back"
        assert len(set(seen)) > 3, "readers saw it move"
    assert any("artifacts/pets/v" in path for path in collected["deleted"])
    moved = history(store, "pets", "stable")
    assert len(moved) > 2
    kept = version_numbers(store, "pets")
    assert {65, moved[-1].version} <= set(kept)
    for number in kept:
        verify_version(open_version(store, "pets", number))


def test_a_publisher_whose_claim_was_collected_does_not_commit(store: Location) -> None:
    make_version(store, seed=1)

    def slow(stream: IO[bytes]) -> None:
        """Sleeps for three days, during which a collection and another publisher run."""
        stream.write(b"half")
        delete(store, Policy(), datetime.now(UTC) + timedelta(days=8))
        assert make_version(store, seed=2).number == 3

    files = {"model/a": bytes_writer(b"first"), "model/b": slow}
    with pytest.raises(EsmergeError, match="v000002: was not published: gc took it for abandoned"):
        publish_version(store, "pets", files, {})
    assert version_numbers(store, "pets") == [1, 3]
    assert content(open_version(store, "pets")) == (3, 2)
    report = delete(store, Policy(), datetime.now(UTC))
    assert [item.path for item in report.garbage] == ["artifacts/pets/v000002"], "what it wrote too late"


def test_a_collection_that_was_killed_is_completed_by_the_next(store: Location) -> None:
    for seed in range(1, 5):
        make_version(store, seed=seed)
    stage = store / "shifts" / digest(1)
    (stage / "layer/c").write_bytes(bytes(100))
    write_marker(stage, {})
    dying = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from esm_core.gc.delete import delete
from esm_core.gc.report import Policy
from esm_core.storage import Location
left, real = [6], Location.delete
def delete_or_die(location):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(location)
Location.delete = delete_or_die
delete(Location(sys.argv[1]), Policy(1, timedelta(0)), datetime.now(UTC))
"""
    killed = subprocess.run([sys.executable, "-c", dying, store.url], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert version_numbers(store, "pets") == [3, 4]
    policy = Policy(1, timedelta(0))
    reasons = {item.path: item.reason for item in collect(store, policy, datetime.now(UTC)).garbage}
    assert "left by a deletion" in reasons["artifacts/pets/v000002"]
    with pytest.raises(EsmergeError, match="another gc is running"):
        delete(store, policy, datetime.now(UTC))
    flag = {"id": "x", "refreshed": (datetime.now(UTC) - STALE).isoformat()}
    (store / "gc/running.json").write_bytes(canonical_json({"format": 1, "gc": flag}))
    started = time.monotonic()
    delete(store, policy, datetime.now(UTC))
    assert time.monotonic() - started < 10
    left_over = (store / "artifacts/pets").files()
    assert [path for path in left_over if not path.startswith("v000004/")] == ["collected.json"]
    assert stage.files() == []
