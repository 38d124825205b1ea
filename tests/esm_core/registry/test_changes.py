"""What a watch says is new, and the name of a set of inputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from landed import land_all, landing
from world import World

from esm_core import InputError
from esm_core.inspection import inspect_base, inspect_task
from esm_core.recipe import Recipe
from esm_core.registry import land, load_resolved
from esm_core.registry.changes import changes, inputs_digest
from esm_core.storage import Location


@pytest.fixture
def registry(world: World) -> Location:
    found = Location.parse(str(world.root / "registry"))
    land_all(world, found)
    return found


def resolved(world: World) -> Recipe:
    return load_resolved(str(world.recipe_path))


def manifest_of(recipe: Recipe) -> dict[str, Any]:
    """The part of a manifest that says what a version was made from, as publication writes it."""
    tasks = {
        spec.name: {"checkpoint": inspect_task(recipe, spec.name).checkpoint.model_dump()}
        for spec in recipe.tasks
    }
    inputs = {"base": {"checkpoint": inspect_base(recipe).model_dump()}, "tasks": tasks}
    found: dict[str, Any] = json.loads(
        json.dumps({"recipe": recipe.model_dump(mode="json"), "inputs": inputs})
    )
    return found


def test_nothing_is_new(world: World, registry: Location) -> None:
    recipe = resolved(world)
    assert changes(recipe, None) == ["no version is published yet"]
    assert changes(recipe, manifest_of(recipe)) == []


def test_what_is_new_is_said(world: World, registry: Location) -> None:
    newest = manifest_of(resolved(world))
    land(registry, landing_of(world, "cats"), force=True)
    land(registry, landing_of(world, "owls"))
    world.recipe["tasks_from"]["exclude"] = ["maps"]
    world.recipe |= {"samples": 2, "method": {"rank": 3}}
    assert changes(resolved(world), newest) == [
        "cats: v000001 -> v000002",
        "maps: no longer there",
        "owls: new",
        "settings changed: method.rank none -> 3, samples 4 -> 2",
    ]


def landing_of(world: World, task: str) -> Any:
    """The files of the world's cats, under a name."""
    spec = {"name": "cats", "checkpoint": "cats.safetensors", "proxy": "cats/proxy"}
    return landing(World(world.root, {"tasks": [spec]}), "cats", task=task)


def test_other_places_and_files_written_again_are_said(world: World) -> None:
    recipe = resolved(world)
    newest = manifest_of(recipe)
    base, dogs = world.root / "base.safetensors", world.root / "dogs.safetensors"
    base.write_bytes(base.read_bytes())
    dogs.write_bytes(dogs.read_bytes())
    world.task("cats")["proxy"] = "dogs/proxy"
    assert changes(resolved(world), newest) == [
        f"base: file://{base} was written again",
        f"cats: proxy file://{world.root}/cats/proxy -> file://{world.root}/dogs/proxy",
        f"dogs: file://{dogs} was written again",
    ]


def test_manifests_of_other_releases(world: World) -> None:
    recipe = resolved(world)
    newest = manifest_of(recipe)
    del newest["recipe"]["tasks_from"]
    for facts in (newest["inputs"]["base"], *newest["inputs"]["tasks"].values()):
        del facts["checkpoint"]["fingerprint"]
    assert changes(recipe, newest) == [], "the first releases noted neither"
    newest["recipe"]["from_the_future"] = 1
    assert changes(recipe, newest) == [
        "the newest version was made by another release of esmerge: its recipe cannot be compared"
    ]


def test_a_set_of_inputs_has_a_name_that_follows_every_input(world: World, registry: Location) -> None:
    before = inputs_digest(resolved(world))
    assert inputs_digest(resolved(world)) == before
    seen = {before}
    folder = Path((registry / "cats/v000001").path)
    for file in (
        world.root / "base.safetensors",
        world.root / "config.json",
        folder / "checkpoint.safetensors",
        folder / "head.safetensors",
        folder / "proxy/0.png",
        folder / "test/class0/0.png",
    ):
        file.write_bytes(file.read_bytes())
        seen.add(inputs_digest(resolved(world)))
    world.recipe["alpha"] = 1.0
    seen.add(inputs_digest(resolved(world)))
    assert len(seen) == 8
    recipe = resolved(world)
    (folder / "head.safetensors").unlink()
    with pytest.raises(InputError, match=r"head\.safetensors: no such file"):
        inputs_digest(recipe)
