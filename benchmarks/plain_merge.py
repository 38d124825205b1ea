"""What the merge flow does, by plain calls of esm_core, one after the other: what the flow is measured by."""

import sys
from pathlib import Path

import torch

from esm_core.alpha.choice import choose, mean_score, next_alpha
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import write_references
from esm_core.alpha.scores import keep_choice, score
from esm_core.inspection import inspect_base, inspect_task
from esm_core.layer_merges import merge_one
from esm_core.outline import outline
from esm_core.plan import Plan, make_plan
from esm_core.publish import publish
from esm_core.recipe_file import load_recipe
from esm_core.stage_collect import collect_task
from esm_core.static import finish
from esm_core.store import prepare_store
from esm_core.survey import survey


def plan_of(recipe: Path) -> Plan:
    """The plan of a recipe, its inputs inspected."""
    loaded = load_recipe(str(recipe))
    found = survey(loaded)
    facts = [inspect_task(loaded, spec.name) for spec in loaded.tasks]
    plan = make_plan(outline(found), inspect_base(loaded), facts)
    prepare_store(plan.store)
    return plan


def merge_plainly(recipe: Path) -> None:
    """Merge and publish a recipe whose alpha is searched without labels."""
    plan = plan_of(recipe)
    names = [task.name for task in plan.tasks]
    for name in names:
        collect_task(plan, name)
    for weight in plan.decomposed:
        merge_one(plan, weight)
    write_line(plan)
    for name in names:
        write_references(plan, name)
    curve: dict[float, float] = {}
    while (alpha := next_alpha(curve)) is not None:
        curve[alpha] = mean_score(score(plan, alpha, name) for name in names)
    plan = keep_choice(plan, choose("label_free", curve))
    finish(plan)
    publish(plan, {"accuracy": {}, "routing": {}, "routing_accuracy": {}})


if __name__ == "__main__":
    torch.set_num_threads(1)
    merge_plainly(Path(sys.argv[1]))
