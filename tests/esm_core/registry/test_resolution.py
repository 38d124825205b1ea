"""Recipes that take fine-tunes from a registry."""

from pathlib import Path
from typing import Any

import pytest
from landed import land_all, landing
from services import S3Server
from world import World, merge_layers

from esm_core import InputError
from esm_core.inspection import inspect_base, inspect_task
from esm_core.outline import outline
from esm_core.plan import Plan, make_plan
from esm_core.recipe import Recipe
from esm_core.recipe_file import load_recipe
from esm_core.registry import land, load_resolved, resolve
from esm_core.storage import Location
from esm_core.survey import survey


@pytest.fixture
def registry(world: World) -> Location:
    """A registry beside the recipe, which takes everything from there."""
    found = Location.parse(str(world.root / "registry"))
    land_all(world, found)
    world.recipe["tasks_from"]["registry"] = "registry"
    return found


def resolved(world: World, **tasks_from: Any) -> Recipe:
    world.recipe["tasks_from"] = {"registry": "registry", **tasks_from}
    return load_resolved(str(world.recipe_path))


def problems_of(world: World, **tasks_from: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        resolved(world, **tasks_from)
    return caught.value.problems


def names(recipe: Recipe) -> list[str]:
    return [f"{spec.name} {spec.landed}" for spec in recipe.tasks]


def test_the_newest_of_everything_is_taken(world: World, registry: Location) -> None:
    recipe = resolved(world)
    assert recipe.tasks_from is None
    assert names(recipe) == ["cats v000001", "dogs v000001", "maps v000001"]
    cats = recipe.tasks[0]
    assert cats.checkpoint == f"{registry}/cats/v000001/checkpoint.safetensors"
    assert (cats.proxy, cats.test) == (f"{registry}/cats/v000001/proxy", f"{registry}/cats/v000001/test")
    assert cats.head == f"{registry}/cats/v000001/head.safetensors"
    assert cats.sha256 == Location(cats.checkpoint).sha256()


def test_what_was_resolved_is_a_recipe_again(world: World, registry: Location) -> None:
    recipe = resolved(world)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert resolve(recipe) is recipe


def test_include_exclude_and_pins(make_world: Any, world: World, registry: Location) -> None:
    other = make_world("other", tasks=("x", "y", "z", "owls"))
    land(registry, landing(other, "owls", task="cats"))
    land(registry, landing(other, "x", task="cats-small"))
    assert names(resolved(world, include=["cats*"])) == ["cats v000002", "cats-small v000001"]
    assert names(resolved(world, exclude=["*-small", "maps"])) == ["cats v000002", "dogs v000001"]
    for pin in (1, "1", "v000001", "v1"):
        assert names(resolved(world, include=["cats", "dogs"], pins={"cats": pin})) == [
            "cats v000001",
            "dogs v000001",
        ]


def test_tasks_of_the_recipe_and_of_the_registry_together(world: World, registry: Location) -> None:
    world.recipe["tasks"] = [{"name": "birds", "checkpoint": "maps.safetensors", "proxy": "maps/proxy"}]
    recipe = resolved(world, exclude=["maps"])
    assert names(recipe) == ["birds None", "cats v000001", "dogs v000001"]
    world.recipe["tasks"][0]["name"] = "cats"
    (problem,) = problems_of(world)
    assert problem.startswith("tasks: cats is in ")


def test_what_cannot_be_resolved(world: World, registry: Location) -> None:
    problems = problems_of(world, include=["cats", "c*", "owls"], pins={"cats": 7, "dogs": 1, "owls": 1})
    assert [problem.split(": ")[0] for problem in problems] == [
        "tasks_from.include",
        "tasks_from.pins",
        "tasks_from.pins",
        "tasks_from",
    ]
    assert "'owls' matches no task" in problems[0]
    assert "dogs is excluded or not included" in problems[1]
    assert "task cats has no version v000007; its newest is v000001" in problems[3]
    (problem,) = problems_of(world, include=["cats"])
    assert "at least two fine-tunes; there is cats" in problem
    (problem,) = problems_of(world, pins={"cats": "newest"})
    assert "tasks_from.pins.cats: must be a version" in problem
    world.recipe["tasks_from"] = {"registry": "empty"}
    with pytest.raises(InputError, match="holds no fine-tune"):
        load_resolved(str(world.recipe_path))


def test_files_that_are_not_those_that_landed(world: World, registry: Location) -> None:
    (registry / "cats/v000001/checkpoint.safetensors").write_bytes(b"half")
    (registry / "dogs/v000001/proxy/0.png").delete()
    (registry / "dogs/v000001/proxy/new.png").write_bytes(b"one more")
    (registry / "maps/v000001/finetune.yaml").write_bytes(b"format: 1\n")
    problems = problems_of(world)
    assert "checkpoint.safetensors: has 4 bytes, but" in problems[0]
    assert "half-uploaded or was replaced under the same version. Land it again" in problems[0]
    assert "dogs/v000001/proxy/0.png: is missing" in problems[1]
    assert "dogs/v000001/proxy/new.png: was added" in problems[2]
    assert "maps/v000001/finetune.yaml: task: Field required" in problems[3]


@pytest.mark.s3
def test_a_registry_on_s3(world: World, s3: S3Server) -> None:
    registry = s3.bucket()
    land_all(world, registry)
    assert names(load_resolved(str(world.recipe_path))) == ["cats v000001", "dogs v000001", "maps v000001"]
    (registry / "dogs/v000001/checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="half-uploaded or was replaced under the same version"):
        load_resolved(str(world.recipe_path))


# Identity.


def planned(recipe: Recipe) -> Plan:
    facts = [inspect_task(recipe, spec.name) for spec in recipe.tasks]
    return make_plan(outline(survey(recipe)), inspect_base(recipe), facts)


def test_where_a_fine_tune_comes_from_changes_no_digest(make_world: Any) -> None:
    """A version made from files and one made from the registry are the same version."""
    world = make_world("files")
    explicit = merge_layers(world)
    land_all(world, Location.parse(str(world.root / "registry")))
    plan = planned(load_resolved(str(world.recipe_path)))
    assert plan.identity == explicit.identity
    assert [plan.shift_folder(t.name) for t in plan.tasks] == [
        explicit.shift_folder(t.name) for t in plan.tasks
    ]
    assert plan.recipe.tasks[0].landed == "v000001"


def test_a_checkpoint_replaced_under_its_version_is_refused(world: World, registry: Location) -> None:
    recipe = resolved(world)
    file = Path((registry / "cats/v000001/checkpoint.safetensors").path)
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    assert resolved(world) == recipe, "of the same size: only the content tells"
    with pytest.raises(InputError) as caught:
        inspect_task(recipe, "cats")
    for part in ("task cats", "replaced under the same version v000001", "Land it again as a new version"):
        assert part in str(caught.value)
    for digest in (recipe.tasks[0].sha256, Location.parse(str(file)).sha256()):
        assert str(digest) in str(caught.value)


def test_a_recipe_can_say_which_checkpoint_it_means(world: World) -> None:
    world.task("cats")["sha256"] = "0" * 64
    recipe = load_recipe(str(world.recipe_path))
    with pytest.raises(InputError, match=r"task cats: .*is not the checkpoint the recipe names: sha256 0000"):
        inspect_task(recipe, "cats")
