"""Every stage that reads an input refuses one that is no longer what was inspected, and leaves no result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from world import World, add_validation, build_world, write_image

from esm_core import InputError, inspection
from esm_core.alpha.choice import ChosenAlpha
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import write_references
from esm_core.alpha.scores import score
from esm_core.evaluate import EvaluationJob, evaluate
from esm_core.experts.places import expert_weights
from esm_core.experts.stage_decompose import decompose_one
from esm_core.inspection import inspect_base, inspect_task, recall_task
from esm_core.layer_merges import merge_one
from esm_core.outline import outline
from esm_core.plan import Plan, make_plan
from esm_core.recipe_file import load_recipe
from esm_core.routing import stage_fit
from esm_core.routing.assemble import assemble
from esm_core.routing.stage_fit import fit_router
from esm_core.stage_collect import collect_task
from esm_core.static import finish
from esm_core.survey import survey

pytestmark = pytest.mark.fault

Stage = Callable[[Plan], object]
IN_PROJ = "visual.transformer.resblocks.0.attn.in_proj_weight"


def train_on(path: Path) -> None:
    """Another checkpoint of the same size under the same name."""
    tower = load_file(path)
    save_file({name: tensor * 1.01 for name, tensor in tower.items()}, path)


def plan_of(world: World) -> Plan:
    recipe = load_recipe(str(world.recipe_path))
    facts = [inspect_task(recipe, spec.name) for spec in recipe.tasks]
    return make_plan(outline(survey(recipe)), inspect_base(recipe), facts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose store holds all that the stages below need of one another."""
    world = build_world(tmp_path_factory.mktemp("finished") / "world")
    add_validation(world)
    world.recipe |= {"experts": {"rank": 4}, "compare": [{"method": "average"}]}
    plan = plan_of(world)
    for task in plan.tasks:
        collect_task(plan, task.name)
    for weight in plan.decomposed:
        merge_one(plan, weight)
    finish(plan)
    for weight in expert_weights(plan):
        decompose_one(plan, weight)
    fit_router(plan)
    return world


@pytest.fixture
def begun(finished: World, tmp_path: Path) -> tuple[World, Plan]:
    """A merge that has inspected its inputs; nothing else of it is in its store."""
    world = finished.copied_to(tmp_path / "begun")
    return world, plan_of(world)


def job(method: str, *names: str) -> Stage:
    return lambda plan: evaluate(plan, EvaluationJob(method=method, tasks=list(names or ["cats"])))


READERS_OF_CHECKPOINTS: dict[str, Stage] = {
    "collect": lambda plan: collect_task(plan, "cats"),
    "merge a layer": lambda plan: merge_one(plan, IN_PROJ),
    "finish": lambda plan: finish(plan.model_copy(update={"alpha": ChosenAlpha(value=1.0, method="fixed")})),
    "line": write_line,
    "features": lambda plan: write_references(plan, "cats"),
    "experts": lambda plan: decompose_one(plan, IN_PROJ),
    "assemble": assemble,
    "evaluate a fine-tune": job("experts"),
    "evaluate a baseline": job("average", "cats", "dogs"),
}


REDONE = {"collect": ["shifts"], "merge a layer": ["merges", "bases"], "experts": ["experts"]}
"""What the store holds already is forgotten, so that these stages have something to do."""


def results(world: World) -> set[Path]:
    store = world.root / "store"
    done = {*store.rglob("complete.json")}
    done |= {*store.glob("bases/*/*")}
    return done | {path for kind in ("scores", "evaluations") for path in (store / kind).glob("*.json")}


@pytest.mark.parametrize("name", ["cats", "base"])
@pytest.mark.parametrize("stage", READERS_OF_CHECKPOINTS)
def test_a_checkpoint_that_was_replaced(begun: tuple[World, Plan], stage: str, name: str) -> None:
    world, plan = begun
    for kind in REDONE.get(stage, []):
        shutil.rmtree(world.root / "store" / kind)
    before = results(world)
    train_on(world.root / f"{name}.safetensors")
    with pytest.raises(InputError) as caught:
        READERS_OF_CHECKPOINTS[stage](plan)
    who = "the base" if name == "base" else "task cats"
    assert str(caught.value) == (
        f"{who}: file://{world.root}/{name}.safetensors: changed since the merge began. Run again: the new "
        "content will be merged as a new input."
    )
    assert results(world) == before, "a result was kept"


@pytest.mark.parametrize("stage", ["merge a layer", "finish"])
def test_a_checkpoint_that_was_deleted(begun: tuple[World, Plan], stage: str) -> None:
    world, plan = begun
    for kind in REDONE.get(stage, []):
        shutil.rmtree(world.root / "store" / kind)
    (world.root / "cats.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"task cats: file://.*/cats\.safetensors: was deleted since the merge"
    ):
        READERS_OF_CHECKPOINTS[stage](plan)


def test_another_tasks_checkpoint_does_not_matter_where_it_is_not_read(begun: tuple[World, Plan]) -> None:
    world, plan = begun
    shutil.rmtree(world.root / "store" / "shifts")
    train_on(world.root / "cats.safetensors")
    collect_task(plan, "dogs")
    evaluate(plan, EvaluationJob(method="base", tasks=["cats"]))


# Images and heads.


def searched(plan: Plan, alpha: str) -> Plan:
    """The plan as it is before its search for alpha, with all that the scores are made of."""
    plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"alpha": alpha}), "alpha": None})
    write_line(plan)
    return plan


READERS_OF_PROXIES: dict[str, Stage] = {
    "collect": lambda plan: collect_task(plan, "cats"),
    "features": lambda plan: write_references(plan, "cats"),
    "router": fit_router,
}


@pytest.mark.parametrize("stage", READERS_OF_PROXIES)
def test_proxies_that_were_replaced(begun: tuple[World, Plan], stage: str) -> None:
    world, plan = begun
    for kind in ("shifts", "routers"):
        shutil.rmtree(world.root / "store" / kind)
    if stage == "router":
        for task in plan.tasks:
            collect_task(plan, task.name)
    before = results(world)
    for image in (world.root / "cats/proxy").iterdir():
        write_image(image, seed=77)
    with pytest.raises(InputError, match=r"task cats: proxy: file://.*/cats/proxy: changed since"):
        READERS_OF_PROXIES[stage](plan)
    assert results(world) == before


def test_proxies_that_are_replaced_while_a_router_reads_them_again(
    begun: tuple[World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, plan = begun
    shutil.rmtree(world.root / "store" / "routers")
    held_out = stage_fit._held_out

    def replacing(*arguments: Any) -> Any:
        write_image(world.root / "cats/proxy/0.png", seed=77)
        return held_out(*arguments)

    monkeypatch.setattr(stage_fit, "_held_out", replacing)
    with pytest.raises(InputError, match=r"task cats: proxy: .*changed since the merge began"):
        fit_router(plan)


def test_more_proxies_in_the_folder_are_no_change(begun: tuple[World, Plan]) -> None:
    world, plan = begun
    shutil.rmtree(world.root / "store" / "shifts")
    write_image(world.root / "cats/proxy/one-more.png", seed=77)
    collect_task(plan, "cats")


def test_a_proxy_that_was_deleted_is_named(begun: tuple[World, Plan]) -> None:
    world, plan = begun
    shutil.rmtree(world.root / "store" / "shifts")
    gone = plan.task("cats").facts.proxies[0]
    (world.root / "cats/proxy" / gone).unlink()
    with pytest.raises(InputError, match=f"/cats/proxy: has no image '{gone}'"):
        collect_task(plan, "cats")


def test_proxies_that_change_during_the_search_for_alpha(begun: tuple[World, Plan]) -> None:
    world, plan = begun
    plan = searched(plan, "label_free")
    write_references(plan, "cats")
    for image in (world.root / "cats/proxy").iterdir():
        write_image(image, seed=77)
    before = results(world)
    with pytest.raises(InputError, match=r"task cats: proxy: .*changed since the merge began"):
        score(plan, 1.0, "cats")
    assert results(world) == before


@pytest.mark.parametrize("change", ["another image", "another label", "one more", "one less"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_labelled_images_that_changed(begun: tuple[World, Plan], split: str, change: str) -> None:
    world, plan = begun
    plan = searched(plan, "validation") if split == "validation" else plan
    folder = world.root / "cats/test"  # the world's validation images are the same ones
    match change:
        case "another image":
            write_image(folder / "class0/0.png", seed=77)
        case "another label":
            (folder / "class0/0.png").rename(folder / "class1/0.png")
        case "one more":
            write_image(folder / "class0/9.png", seed=77)
        case "one less":
            (folder / "class0/0.png").unlink()
    before = results(world)
    with pytest.raises(InputError, match=f"task cats: {split}: file://.*/cats/test: changed since"):
        score(plan, 1.0, "cats") if split == "validation" else job("base")(plan)
    assert results(world) == before


def test_a_head_that_changed(begun: tuple[World, Plan]) -> None:
    world, plan = begun
    head = world.root / "cats-head.safetensors"
    save_file({"weight": load_file(head)["weight"] * 2}, head)
    before = results(world)
    with pytest.raises(InputError, match=r"task cats: head: file://.*cats-head\.safetensors: changed since"):
        job("base")(plan)
    assert results(world) == before


# Inspection.


def test_what_changes_while_it_is_inspected_is_not_noted(
    begun: tuple[World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, plan = begun
    train_on(world.root / "cats.safetensors")
    checked = inspection._checked

    def replacing(*arguments: Any) -> dict[str, Any]:
        facts = checked(*arguments)
        train_on(world.root / "cats.safetensors")
        return facts

    noted = set((world.root / "store/inspections").iterdir())
    monkeypatch.setattr(inspection, "_checked", replacing)
    with pytest.raises(InputError, match=r"task cats: file://.*cats\.safetensors: changed while it was read"):
        inspect_task(plan.recipe, "cats")
    assert set((world.root / "store/inspections").iterdir()) == noted


def test_a_ledger_of_an_older_release_is_still_good(begun: tuple[World, Plan]) -> None:
    """It holds no fingerprint; what is known under one has that one."""
    world, plan = begun
    for entry in (world.root / "store/inspections").iterdir():
        assert "fingerprint" not in json.loads(entry.read_bytes())["facts"]
    assert recall_task(plan.recipe, "cats") == plan.task("cats").facts
