"""Whole merges on an S3 endpoint that misbehaves: the same model, or a clear error within seconds."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from s3_proxy import Faults, FaultyProxy, meant
from services import Command, S3Server
from world import World

from esm_core.storage import Location

pytestmark = [
    pytest.mark.fault,
    pytest.mark.s3,
    pytest.mark.server,
    pytest.mark.usefixtures("prefect_server"),
]

MODEL = "model/open_clip_model.safetensors"


def on_s3(world: World, bucket: Location) -> Location:
    """Everything of a world in a bucket; the location of its recipe there."""
    for path in sorted(world.root.rglob("*")):
        if path.is_file():
            (bucket / str(path.relative_to(world.root))).write_bytes(path.read_bytes())
    recipe = bucket / "recipe.yaml"
    recipe.write_bytes(yaml.safe_dump(world.recipe).encode())
    return recipe


@pytest.fixture
def landed(make_world: Callable[..., World], s3: S3Server, esmerge: Command) -> tuple[Location, str]:
    """A recipe on S3 and the sha256 of the model that an undisturbed local merge makes of it."""
    world = make_world("world", test=False)
    bucket = s3.bucket()
    recipe = on_s3(world, bucket)
    assert esmerge("merge", world.recipe_path).code == 0
    model = world.root / "store" / "artifacts" / "pets" / "v000001" / MODEL
    return recipe, hashlib.sha256(model.read_bytes()).hexdigest()


def published(store: Location) -> str:
    """sha256 of the model that version 1 holds, which its manifest must agree with."""
    folder = store / "artifacts" / "pets" / "v000001"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    digest = (folder / MODEL).sha256()
    assert manifest["files"][MODEL]["sha256"] == digest
    return digest


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        Faults(error_500=0.025, slow_down=0.025),
        Faults(reset_before=0.02, reset_after=0.02, truncate=0.02),
        Faults(stall=0.05),
    ],
    ids=["500 and 503", "resets and truncated bodies", "stalls of 2 s"],
)
def test_a_merge_completes_with_the_same_model(
    landed: tuple[Location, str], faulty_s3: FaultyProxy, esmerge: Command, faults: Faults
) -> None:
    recipe, digest = landed
    faulty_s3.reset_counts()
    faulty_s3.faults = faults
    outcome = esmerge("merge", recipe, "--workers", "4")  # most of them wait
    assert outcome.code == 0, outcome.err
    assert set(faulty_s3.injected) == meant(faults), "every fault was met"
    assert faulty_s3.injected.total() >= 0.02 * faulty_s3.requests.total()
    assert faulty_s3.cut_bodies > 0 or not faults.truncate
    print(f"{faulty_s3.requests.total()} requests, {dict(faulty_s3.injected)}")
    faulty_s3.faults = Faults()
    assert published(recipe.parent / "store") == digest


@pytest.mark.slow
def test_a_merge_outlasts_an_outage_of_some_seconds(
    landed: tuple[Location, str], faulty_s3: FaultyProxy, esmerge: Command
) -> None:
    recipe, digest = landed
    faulty_s3.reset_counts()
    ended = threading.Event()

    def break_down() -> None:
        while faulty_s3.requests.total() < 120 and not ended.is_set():
            time.sleep(0.02)
        faulty_s3.faults = Faults(down=True)
        ended.wait(4)
        faulty_s3.faults = Faults()

    breaking = threading.Thread(target=break_down)
    breaking.start()
    outcome = esmerge("merge", recipe)
    ended.set()
    breaking.join()
    assert outcome.code == 0, outcome.err
    assert faulty_s3.injected["down"] > 0
    assert published(recipe.parent / "store") == digest


def test_a_refused_write_fails_within_seconds_and_names_bucket_and_operation(
    make_world: Callable[..., World], s3: S3Server, faulty_s3: FaultyProxy, esmerge: Command, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    recipe = on_s3(make_world("w", test=False), bucket)
    faulty_s3.reset_counts()
    faulty_s3.faults = Faults(refused=("PutObject",))
    started = time.monotonic()
    outcome = esmerge("merge", recipe)
    assert time.monotonic() - started < 20
    assert outcome.code == 2
    assert f"PutObject on bucket {bucket.path} was answered AccessDenied" in outcome.err
    assert "Traceback" not in outcome.err
    assert faulty_s3.requests["PutObject"] <= 3


def test_a_write_refused_during_the_merge_ends_it_at_once(
    make_world: Callable[..., World], s3: S3Server, faulty_s3: FaultyProxy, esmerge: Command
) -> None:
    bucket = s3.bucket()
    world = make_world("w", test=False)
    recipe = on_s3(world, bucket)
    assert esmerge("plan", recipe).code == 0
    # The store is proved to be writable, then permission is lost.
    faulty_s3.reset_counts()
    lost = threading.Event()

    def refuse() -> None:
        while faulty_s3.requests["PutObject"] < 8 and not lost.is_set():
            time.sleep(0.01)
        faulty_s3.faults = Faults(refused=("PutObject",))

    refusing = threading.Thread(target=refuse)
    refusing.start()
    started = time.monotonic()
    outcome = esmerge("merge", recipe, "--workers", "1")
    lost.set()
    refusing.join()
    assert outcome.code == 2, outcome.err
    assert f"PutObject on bucket {bucket.path}" in outcome.err
    assert time.monotonic() - started < 40
    assert faulty_s3.injected["refused"] <= 40  # at most one for each weight that was to be written
