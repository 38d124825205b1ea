"""Threads, disk and libraries: what does not fit is said with what to do."""

import shutil
from collections import namedtuple

import pytest

from esm_core.doctor import libraries, machine
from esm_core.doctor.libraries import check_libraries, check_python
from esm_core.doctor.machine import check_temporary, check_threads


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cores", lambda: 4)
    for name in ("ESMERGE_WORKERS", "ESMERGE_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("workers", "threads", "pool", "status", "said"),
    [
        ("4", "1", "1", "ok", "tasks at a time: 4, threads of each: 1, cores: 4"),
        ("2", "2", "2", "ok", "OMP_NUM_THREADS=2"),
        ("4", "2", "2", "warn", "more threads than cores"),
        ("2", "1", "8", "warn", "another size"),
        ("two", "1", "1", "fail", "ESMERGE_WORKERS is 'two'; it must be a whole number, 1 or more"),
        ("2", "0", "1", "fail", "ESMERGE_THREADS is '0'"),
        ("2", "-1", "1", "fail", "ESMERGE_THREADS is '-1'"),
    ],
)
def test_tasks_and_threads_are_compared_with_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: str, threads: str, pool: str, status: str, said: str
) -> None:
    for name, value in (
        ("ESMERGE_WORKERS", workers),
        ("ESMERGE_THREADS", threads),
        ("OMP_NUM_THREADS", pool),
    ):
        monkeypatch.setenv(name, value)
    check = check_threads()
    assert (check.status, bool(check.do)) == (status, status != "ok")
    assert said in check.found


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**9, "warn"), (10**6, "fail")])
def test_little_room_in_the_temporary_folder(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert check_temporary().status == status


def test_a_temporary_folder_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    check = check_temporary()
    assert (check.status, "TMPDIR" in check.do) == ("fail", True)


def test_libraries_of_other_versions_are_named_with_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["numpy>=2", "zarr<1", "no-such-library>=1", 's3fs>=2025.9; extra == "s3"', 'x; extra == "dask"']
    monkeypatch.setattr(libraries, "requires", lambda name: asked)
    fine, *problems = check_libraries(["s3"])
    assert fine.status == "ok"
    assert "numpy 2" in fine.found
    assert "s3fs 20" in fine.found
    assert [(check.name, check.status) for check in problems] == [
        ("library zarr", "fail"),
        ("library no-such-library", "fail"),
    ]
    assert "this esmerge supports <1" in problems[0].found
    assert "no-such-library>=1" in problems[1].do


def test_this_installation_is_as_it_should_be() -> None:
    assert check_python().status == "ok"
    assert [check.status for check in check_libraries(["s3", "dask"])] == ["ok"]
