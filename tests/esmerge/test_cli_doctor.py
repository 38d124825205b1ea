"""``esmerge doctor``: what it looks at, in text and in JSON, and its exit codes."""

import json
from pathlib import Path

import pytest
from services import ACCESS_KEY, SECRET_KEY, Command, S3Server
from world import World


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ESMERGE_WORKERS", "1")


def test_a_recipe_and_its_store_are_looked_at(world: World, esmerge: Command) -> None:
    done = esmerge("doctor", world.recipe_path, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["ok"] is True
    found = {check["name"]: check for check in report["checks"]}
    names = ["python", "libraries", "threads", "devices", "temporary folder", "prefect", "recipe", "store"]
    assert [name for name in found if ":" not in name] == names
    assert "pets, 3 tasks" in found["recipe"]["found"]
    assert {check["status"] for check in report["checks"]} == {"ok"}
    assert not (world.root / "store").exists()
    text = esmerge("doctor", world.recipe_path)
    assert text.code == 0
    assert "store: create once: 8 at the same moment, one winner" in text.out
    assert "\x1b" not in text.out
    assert text.out.endswith(" checks: 0 failed, 0 warnings\n")


def test_what_fails_is_said_with_what_to_do_and_exit_code_1(
    world: World, esmerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMERGE_THREADS", "two")
    world.recipe |= {"fuse": {"device": "cuda:99"}, "store": "/proc/nowhere"}
    done = esmerge("doctor", world.recipe_path)
    assert (done.code, done.err) == (1, "")
    for said in (
        "fail  threads: ESMERGE_THREADS is 'two'",
        "fail  devices: fuse.device: 'cuda:99' cannot be used here",
        "fail  store: write: file:///proc/nowhere/probe-",
        "      → Give a folder that this user may write",
        " 4 failed, ",
    ):
        assert said in done.out
    again = json.loads(esmerge("doctor", world.recipe_path, "--json").out)
    assert again["ok"] is False


def test_a_recipe_that_cannot_be_read_is_a_check_that_failed(tmp_path: Path, esmerge: Command) -> None:
    (tmp_path / "recipe.yaml").write_text("name: [")
    done = esmerge("doctor", tmp_path / "recipe.yaml", "--json")
    assert done.code == 1
    (check,) = [c for c in json.loads(done.out)["checks"] if c["status"] == "fail"]
    assert (check["name"], "is not valid YAML" in check["found"]) == ("recipe", True)


def test_an_argument_that_cannot_be_used_is_exit_code_2(esmerge: Command) -> None:
    done = esmerge("doctor", "--store", "s3://key:hunter2@bucket")
    assert (done.code, done.out, "hunter2" in done.err) == (2, "", False)


@pytest.mark.s3
def test_a_bucket_is_probed_and_no_credential_shown(s3: S3Server, esmerge: Command) -> None:
    bucket = s3.bucket()
    done = esmerge("doctor", "--store", bucket)
    assert done.code == 0, done.out
    assert f"store: {bucket} at {s3.endpoint}" in done.out
    assert "s3fs 20" in done.out
    assert ACCESS_KEY not in done.out
    assert SECRET_KEY not in done.out
    assert bucket.files() == []
