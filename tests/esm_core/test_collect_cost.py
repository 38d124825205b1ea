"""The estimates of collection against what it writes."""

from pathlib import Path
from typing import Any

import pytest
from whole_merge import planned
from world import World

from benchmarks.sizing import recipe_of
from esm_core.architecture import load_architecture, tower_shapes
from esm_core.collect_cost import collection_cost
from esm_core.stage_collect import collect_task
from esm_core.storage import Location


def shapes_of(tower: str) -> dict[str, tuple[int, ...]]:
    return tower_shapes(load_architecture(tower, Location.parse("/")))


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    "experts", [None, {"rank": 4}, {"rank": 4, "layers": ["mlp.c_proj"], "extras": False}]
)
def test_a_collection_stores_what_was_estimated(world: World, experts: Any, precision: str) -> None:
    world.recipe |= {"experts": experts, "collect": {"precision": precision}}
    plan = planned(world)
    collect_task(plan, "cats")
    chunks = [path for path in Path(world.store.path).glob("shifts/*/*/factor/c/**/*") if path.is_file()]
    checksums = 4 * len(chunks)
    stored = sum(path.stat().st_size for path in chunks) - checksums
    assert collection_cost(plan.recipe, tower_shapes(plan.architecture)).stored == stored


def test_triangles_are_estimated_packed() -> None:
    recipe = recipe_of(4, 32).model_copy(update={"experts": None})
    assert collection_cost(recipe, shapes_of("ViT-B-32")).stored == 36 * 8 * (768 * 769 // 2)


def test_experts_cost_more_and_large_batches_less_memory() -> None:
    recipe, shapes = recipe_of(4, 32), shapes_of("ViT-L-14")
    plain = recipe.model_copy(update={"experts": None})
    singly = recipe.model_copy(update={"collect": recipe.collect.model_copy(update={"batch_size": 1})})
    cheap, own, small = (collection_cost(r, shapes) for r in (plain, recipe, singly))
    assert all(less < more for less, more in zip(cheap, own, strict=True))
    assert own.memory < small.memory
    assert (own.stored, own.flops) == (small.stored, small.flops)
