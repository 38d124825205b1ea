"""What a plan reaches: after a merge, every stage in the store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from whole_merge import merge_whole, planned
from world import World, add_validation

from esm_core.errors import EsmergeError
from esm_core.gc.collect import STAGES, collect
from esm_core.gc.report import Policy
from esm_core.leases import read_lease, take_lease
from esm_core.plan import plan_file
from esm_core.reachable import reachable
from esm_core.recipe import ZeroShotSpec
from esm_core.storage import Location

CLASSES = ZeroShotSpec(classes=["one", "two"])


def stages(store: Location) -> set[str]:
    """Every stage's output in a store."""
    return {f"{kind}/{name}" for kind in STAGES for name in (store / kind).children()}


@pytest.mark.parametrize("alpha", [2.0, "label_free", "validation"])
def test_a_merge_reaches_all_it_has_written(make_world: Callable[..., World], alpha: float | str) -> None:
    world = make_world("world", tasks=("cats", "dogs"))
    add_validation(world)
    world.recipe |= {"alpha": alpha, "experts": {"rank": 4}, "compare": [{"method": "average"}]}
    plan, version = merge_whole(world)
    before_alpha = {f"plans/{plan_file(plan.model_copy(update={'alpha': None})).name}"}
    searched = before_alpha if alpha != 2.0 else set()
    assert version.manifest["store_paths"] == reachable(plan)
    assert set(reachable(plan)) == stages(world.store) - searched
    later = datetime.now(UTC) + timedelta(days=30)
    assert {item.path for item in collect(world.store, Policy(keep=1), later).garbage} == searched
    assert (world.store / "leases").files() == []


def test_a_plan_without_alpha_reaches_what_can_be_known(make_world: Callable[..., World]) -> None:
    world = make_world("world", tasks=("cats", "dogs"))
    world.recipe["alpha"] = "label_free"
    plan = planned(world)
    kinds = {path.partition("/")[0] for path in reachable(plan)}
    assert kinds == {
        *("plans", "shifts", "bases", "merges", "spectra"),
        *("lines", "features", "alphas", "scores", "evaluations"),
    }
    assert "scores" in reachable(plan)
    lease = take_lease(plan)
    found, version = merge_whole(world)
    assert version.number == 1
    grown = lease.refresh(found)
    assert set(grown.prefixes) == set(reachable(plan)) | set(reachable(found))
    assert read_lease(lease.location) == grown


def test_zero_shot_heads_are_reached(world: World) -> None:
    plan = planned(world)
    tasks = []
    for task in plan.tasks:
        spec = task.spec.model_copy(update={"head": None, "zero_shot": CLASSES})
        facts = task.facts.model_copy(update={"head_sha256": None})
        tasks.append(task.model_copy(update={"spec": spec, "facts": facts}))
    found = reachable(plan.model_copy(update={"tasks": tasks}))
    assert sum(path.startswith("zero-shot/") for path in found) == 1


def test_an_import_that_was_collected_before_the_lease_is_named(world: World) -> None:
    plan = planned(world)
    facts = plan.base.model_copy(update={"weights": (world.store / f"imports/{'a' * 64}.safetensors").url})
    with pytest.raises(EsmergeError, match="was collected by gc while the merge began"):
        take_lease(plan.model_copy(update={"base": facts}))
    assert (world.store / "leases").files() == []
