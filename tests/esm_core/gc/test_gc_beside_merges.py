"""A merge while everything that nothing needs is deleted all the time, whatever its age."""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from collecting import collecting
from services import S3Server
from versions import digest
from whole_merge import merge_whole
from world import World, merge_layers

from esm_core.artifacts import Version, open_version, read_verified, verify_version
from esm_core.gc.delete import delete
from esm_core.gc.report import Policy
from esm_core.leases import take_lease
from esm_core.stages import write_marker
from esm_core.storage import Location

pytestmark = pytest.mark.fault


def model(version: Version) -> bytes:
    return read_verified(version, "model/open_clip_model.safetensors")


def experts(version: Version) -> bytes:
    return read_verified(version, "experts/experts.safetensors")


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def orphan(store: Location) -> Location:
    folder = store / "shifts" / digest(1)
    (folder / "layer/c").write_bytes(bytes(100))
    write_marker(folder, {})
    return folder


@pytest.fixture
def undisturbed(make_world: Callable[..., World]) -> tuple[World, Version]:
    world = make_world("undisturbed", tasks=("cats", "dogs"))
    world.recipe |= {"alpha": "label_free", "experts": {"rank": 4}}
    return world, merge_whole(world)[1]


def test_a_merge_completes_to_the_same_bytes(undisturbed: tuple[World, Version]) -> None:
    """It begins beside stages of an earlier merge that failed, which gc may take until it has its lease."""
    first, expected = undisturbed
    world = first.copied_to(first.root.parent / "collected")
    world.recipe["store"] = "store-2"
    store = world.store.parent / "store-2"
    merge_layers(world)
    abandoned = orphan(store)
    with collecting(store, keep=1) as collected:
        _, version = merge_whole(world)
    verify_version(version)
    assert model(version) == model(expected)
    assert experts(version) == experts(expected)
    assert collected["runs"] > 3
    assert not abandoned.is_dir()
    # A plan holds the URL of its store.
    reached, others = (
        {p for p in v.manifest["store_paths"] if "plans/" not in p} for v in (version, expected)
    )
    assert reached == others
    assert all((store / path).files() or (store / path).is_file() for path in reached)


def test_what_a_lease_names_stays_until_it_is_released(world: World) -> None:
    plan = merge_layers(world)
    lease = take_lease(plan)
    abandoned = orphan(world.store)
    done = {p: f for p, f in world.store.entries().items() if p.startswith(tuple(lease.prefixes))}
    assert len(done) > 50
    with collecting(world.store, keep=1):
        wait_until(lambda: not abandoned.is_dir())
    assert done.items() <= world.store.entries().items()
    lease.release()
    report = delete(world.store, Policy(1, timedelta(0)), datetime.now(UTC))
    assert f"merges/{plan.merge_digest}" in {item.path for item in report.garbage}


@pytest.mark.s3
@pytest.mark.slow
def test_a_merge_on_s3_completes_to_the_same_bytes(s3: S3Server, undisturbed: tuple[World, Version]) -> None:
    first, expected = undisturbed
    store = s3.bucket() / "store"
    world = first.copied_to(first.root.parent / "on-s3")
    shutil.rmtree(world.store.path)
    world.recipe["store"] = store.url
    abandoned = orphan(store)
    with collecting(store, keep=1) as collected:
        _, version = merge_whole(world)
        _, again = merge_whole(world)
    assert again.number == version.number, "what was published was not published twice"
    found = open_version(store, "pets")
    verify_version(found)
    assert model(found) == model(expected)
    assert experts(found) == experts(expected)
    assert collected["runs"] > 3
    assert abandoned.files() == []
