"""Inputs that are replaced or deleted while a merge runs, or half-uploaded: never a mixed version.

Each is a clear error with exit code 2 and nothing published; run again, the merge publishes what it would
have published from the new content.
"""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from landed import land_all, landing
from moments import before_call
from safetensors.torch import load, save
from services import Command, S3Server
from world import World, write_image

from esm_core.registry import land
from esm_core.storage import Location

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

Before = Callable[[str, int, Callable[[], object]], None]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """``before("tasks.merge.collect_task", 2, act)``: ``act`` happens when that is called the second time."""

    def arrange(function: str, calls: int, act: Callable[[], object]) -> None:
        module_name, _, name = function.rpartition(".")
        module = importlib.import_module(module_name)
        monkeypatch.setattr(module, name, before_call(getattr(module, name), calls, act))

    return arrange


def train_on(checkpoint: Location) -> None:
    """Another checkpoint of the same size under the same name."""
    tower = load(checkpoint.read_bytes())
    checkpoint.write_bytes(save({name: tensor * 1.01 for name, tensor in tower.items()}))


def published(store: Location) -> list[str]:
    """sha256 of every published model."""
    found = [path for path in (store / "artifacts").files() if path.endswith("manifest.json")]
    models = [path.replace("manifest.json", "model/open_clip_model.safetensors") for path in found]
    return [hashlib.sha256((store / "artifacts" / path).read_bytes()).hexdigest() for path in models]


def expected(world: World, esmerge: Command) -> str:
    """What a merge that nothing disturbs publishes from the inputs as they are."""
    store = world.recipe["store"]
    world.recipe["store"] = str(world.root / "undisturbed")
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    world.recipe["store"] = store
    (sha256,) = published(Location.parse(str(world.root / "undisturbed")))
    return sha256


STAGES = {
    "collecting": ("tasks.merge.collect_task", 1),
    "reading to collect": ("esm_core.stage_collect.build_tower", 1),
    "merging": ("tasks.merge.merge_one", 3),
    "inside a layer": ("esm_core.layer_merges.write_arrays", 2),
    "finishing": ("tasks.merge.finish", 1),
    "evaluating": ("tasks.merge.evaluate", 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_replaced_in_the_middle(
    world: World, esmerge: Command, before: Before, stage: str
) -> None:
    checkpoint = Location.parse(str(world.root / "cats.safetensors"))
    before(*STAGES[stage], lambda: train_on(checkpoint))
    merged = esmerge("merge", world.recipe_path, "--workers", 1)
    assert merged.code == 2, merged.err
    assert f"task cats: {checkpoint}: changed since the merge began. Run again" in merged.err
    assert "Traceback" not in merged.err
    assert published(world.store) == []
    again = esmerge("merge", world.recipe_path)
    assert again.code == 0, again.err
    assert published(world.store) == [expected(world, esmerge)]


@pytest.mark.s3
@pytest.mark.parametrize("stage", ["collecting", "merging"])
def test_a_checkpoint_replaced_in_the_middle_on_s3(
    world: World, esmerge: Command, before: Before, s3: S3Server, stage: str
) -> None:
    bucket = s3.bucket()
    checkpoint = bucket / "cats.safetensors"
    checkpoint.write_bytes((world.root / "cats.safetensors").read_bytes())
    world.task("cats")["checkpoint"] = checkpoint.url
    world.recipe["store"] = f"{bucket}/store"
    before(*STAGES[stage], lambda: train_on(checkpoint))
    merged = esmerge("merge", world.recipe_path, "--workers", 1)
    assert merged.code == 2, merged.err
    assert f"task cats: {checkpoint}: changed since the merge began. Run again" in merged.err
    store = bucket / "store"
    assert published(store) == []
    assert esmerge("merge", world.recipe_path).code == 0
    assert published(store) == [expected(world, esmerge)]


def test_images_replaced_in_the_middle(world: World, esmerge: Command, before: Before) -> None:
    before(
        "tasks.merge.collect_task",
        1,
        lambda: [write_image(path, 7) for path in (world.root / "cats/proxy").iterdir()],
    )
    before("tasks.merge.evaluate", 1, lambda: write_image(world.root / "dogs/test/class1/1.png", 7))
    for image in ("task cats: proxy", "task dogs: test"):
        merged = esmerge("merge", world.recipe_path, "--workers", 1)
        assert merged.code == 2, merged.err
        assert image in merged.err
        assert "changed since the merge began" in merged.err
        assert published(world.store) == []
    assert esmerge("merge", world.recipe_path).code == 0
    assert published(world.store) == [expected(world, esmerge)]


# Fine-tunes of a registry.


def _refuses_what_was_replaced(world: World, esmerge: Command, registry: Location) -> None:
    train_on(registry / "cats/v000001/checkpoint.safetensors")
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 2, merged.err
    for part in ("task cats", "replaced under the same version v000001", "Land it again as a new version"):
        assert part in merged.err


def test_a_fine_tune_replaced_under_its_version(world: World, esmerge: Command, tmp_path: Path) -> None:
    registry, cats = Location.parse(str(tmp_path / "registry")), landing(world, "cats")
    land_all(world, registry)
    _refuses_what_was_replaced(world, esmerge, registry)
    assert published(world.store) == []
    assert land(registry, cats).version == "v000002", "what is there is not what landed, so this is new"
    assert esmerge("merge", world.recipe_path).code == 0
    assert published(world.store) == [expected(world, esmerge)]


@pytest.mark.s3
def test_a_fine_tune_on_s3_replaced_under_its_version(world: World, esmerge: Command, s3: S3Server) -> None:
    bucket = s3.bucket()
    land_all(world, bucket / "registry")
    world.recipe["store"] = f"{bucket}/store"
    assert esmerge("merge", world.recipe_path).code == 0
    _refuses_what_was_replaced(world, esmerge, bucket / "registry")
    assert len(published(bucket / "store")) == 1


def _survives_a_deletion(world: World, esmerge: Command, before: Before, root: Location, stage: str) -> None:
    registry, store = root / "registry", root / "store"
    world.recipe["store"] = store.url
    land_all(world, registry)
    before(*STAGES[stage], (registry / "cats").delete)
    merged = esmerge("merge", world.recipe_path, "--workers", 1)
    assert merged.code == 2, merged.err
    assert f"task cats: {registry}/cats/v000001/checkpoint.safetensors: was deleted since" in merged.err
    assert "Traceback" not in merged.err
    assert published(store) == []
    assert esmerge("merge", world.recipe_path).code == 0, "the others are a merge of their own"
    assert published(store) == [expected(world, esmerge)]


@pytest.mark.parametrize("stage", ["collecting", "merging"])
def test_a_fine_tune_deleted_in_the_middle(
    world: World, esmerge: Command, before: Before, tmp_path: Path, stage: str
) -> None:
    _survives_a_deletion(world, esmerge, before, Location.parse(str(tmp_path / "team")), stage)


@pytest.mark.s3
def test_a_fine_tune_on_s3_deleted_in_the_middle(
    world: World, esmerge: Command, before: Before, s3: S3Server
) -> None:
    _survives_a_deletion(world, esmerge, before, s3.bucket(), "merging")


def test_a_fine_tune_that_is_half_uploaded(world: World, esmerge: Command, tmp_path: Path) -> None:
    registry = Location.parse(str(tmp_path / "registry"))
    land_all(world, registry)
    checkpoint = registry / "cats/v000001/checkpoint.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 2
    assert f"{checkpoint}: has {len(content) // 2} bytes, but {len(content)} landed" in merged.err
    checkpoint.write_bytes(content)
    assert esmerge("merge", world.recipe_path).code == 0
    assert published(world.store) == [expected(world, esmerge)]


def test_a_new_fine_tune_is_merged_and_the_others_are_not_collected_again(
    world: World, esmerge: Command, tmp_path: Path
) -> None:
    registry = Location.parse(str(tmp_path / "registry"))
    land_all(world, registry)
    assert esmerge("merge", world.recipe_path).code == 0
    shifts = set((world.root / "store/shifts").iterdir())
    train_on(registry / "maps/v000001/checkpoint.safetensors")
    spec = {"name": "maps", "checkpoint": "maps.safetensors", "proxy": "maps/proxy"}
    train_on(Location.parse(str(world.root / "maps.safetensors")))
    land(registry, landing(World(world.root, {"tasks": [spec]}), "maps"))
    assert esmerge("merge", world.recipe_path).code == 0
    assert len(set((world.root / "store/shifts").iterdir()) - shifts) == 1
    assert len(published(world.store)) == 2
    assert "up to date" in esmerge("merge", world.recipe_path).out
