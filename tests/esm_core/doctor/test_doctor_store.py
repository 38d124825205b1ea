"""The probe of a store: what works, what does not, in seconds, and nothing is left behind."""

import socket
import time
from pathlib import Path

import pytest
from s3_proxy import Faults, FaultyProxy
from services import ACCESS_KEY, SECRET_KEY, S3Server

from esm_core.doctor import Check
from esm_core.doctor.store import check_the_store
from esm_core.storage import Location

STEPS = ["store", "store: write", "store: read", "store: create once", "store: list", "store: delete"]


def failed(checks: list[Check]) -> dict[str, str]:
    """What failed, and why. Whatever happens is said within seconds and without credentials."""
    for check in checks:
        assert ACCESS_KEY not in check.found
        assert SECRET_KEY not in check.found
        assert check.status == "ok" or check.do
    return {check.name: check.found for check in checks if check.status == "fail"}


def test_a_good_folder_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    checks = check_the_store(Location.parse(str(tmp_path / "not/yet/there")))
    assert [(check.name, check.status) for check in checks] == [(step, "ok") for step in STEPS]
    assert "not made yet" in checks[0].found
    assert "8 at the same moment, one winner" in checks[3].found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named() -> None:
    checks = check_the_store(Location.parse("/proc/nowhere/store"))
    assert list(failed(checks)) == ["store: write", "store: list"]
    assert "/proc/nowhere/store/probe-" in checks[1].found


def test_a_store_of_a_newer_format_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text('{"format": 99}')
    assert "Upgrade esmerge" in failed(check_the_store(Location.parse(str(tmp_path))))["store"]


def test_two_winners_of_a_creation_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: Location, data: bytes) -> bool:
        self.write_bytes(data)
        return True

    monkeypatch.setattr(Location, "create", create)
    assert "8 of 8 concurrent creations" in failed(check_the_store(Location.parse(str(tmp_path))))[STEPS[3]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_a_good_bucket_passes_and_stays_empty(s3: S3Server) -> None:
    bucket = s3.bucket()
    assert failed(check_the_store(bucket / "team/store")) == {}
    assert bucket.files() == []


@pytest.mark.s3
def test_a_missing_bucket_is_named_with_the_operation(s3: S3Server) -> None:
    said = failed(check_the_store(Location.parse("s3://no-such-bucket/store")))
    assert "HeadBucket on bucket no-such-bucket was answered 404" in said["store"]
    # This server makes buckets by itself when somebody writes: the probe must not have.
    assert failed(check_the_store(Location.parse("s3://no-such-bucket/store"))) == said


@pytest.mark.s3
@pytest.mark.parametrize(
    ("refused", "steps", "said"),
    [
        ("PutObject", ["store: write"], "PutObject on bucket test-"),
        ("GetObject", ["store: read", "store: create once"], "GetObject on bucket test-"),
        ("DeleteObjects", ["store: delete"], "DeleteObjects on bucket test-"),
    ],
)
def test_a_permission_that_is_missing_is_named(
    faulty_s3: FaultyProxy, s3: S3Server, refused: str, steps: list[str], said: str
) -> None:
    bucket = s3.bucket()
    (bucket / "another").write_bytes(b"of somebody else")
    faulty_s3.faults = Faults(refused=(refused,))
    problems = failed(check_the_store(bucket))
    assert list(problems) == steps
    for problem in problems.values():
        assert said in problem
        assert "AccessDenied" in problem
    faulty_s3.faults = Faults()
    left = bucket.files()
    assert "another" in left
    assert len(left) == (3 if refused == "DeleteObjects" else 1)


@pytest.mark.s3
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_are_refused_are_told_so_at_once(
    faulty_s3: FaultyProxy, s3: S3Server, code: str
) -> None:
    bucket = s3.bucket()
    faulty_s3.faults = Faults(
        refused=("PutObject",), refusal=code, refusal_extra=f" {ACCESS_KEY} {SECRET_KEY}"
    )
    said = failed(check_the_store(bucket))["store: write"]
    assert f"PutObject on bucket {bucket.path} was answered {code}" in said


@pytest.mark.s3
def test_an_endpoint_that_is_not_there_is_told_in_seconds(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    checks = check_the_store(Location.parse("s3://bucket/store"))
    assert "http://127.0.0.1:9" in failed(checks)["store"]
    assert time.monotonic() - started < 10
    assert "AWS_ENDPOINT_URL" in checks[0].do


@pytest.mark.s3
@pytest.mark.fault
def test_an_endpoint_that_never_answers_is_told_in_seconds(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "for now" in failed(check_the_store(Location.parse("s3://bucket/store")))["store"]
        assert time.monotonic() - started < 10


@pytest.mark.s3
def test_credentials_that_are_absent_are_told_so(
    faulty_s3: FaultyProxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    said = failed(check_the_store(Location.parse("s3://bucket/store")))
    assert "no AWS credentials were found" in said["store"]
    assert faulty_s3.requests.total() == 0
