"""A whole merge without Prefect, in the order of the flow, with its lease."""

from world import World

from esm_core.alpha.choice import choose, mean_score, next_alpha
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import write_references
from esm_core.alpha.scores import keep_choice, recall_choice, score
from esm_core.artifacts import Version
from esm_core.evaluate import accuracy, evaluate, evaluation_jobs
from esm_core.experts.places import expert_weights
from esm_core.experts.stage_decompose import decompose_one
from esm_core.inspection import inspect_base, inspect_task
from esm_core.layer_merges import merge_one
from esm_core.leases import take_lease
from esm_core.outline import outline
from esm_core.plan import Plan, load_plan, make_plan, save_plan
from esm_core.publish import publish
from esm_core.recipe_file import load_recipe
from esm_core.routing.assemble import assemble
from esm_core.routing.stage_fit import fit_router
from esm_core.stage_collect import collect_task
from esm_core.static import finish
from esm_core.survey import survey


def planned(world: World) -> Plan:
    recipe = load_recipe(str(world.recipe_path))
    facts = [inspect_task(recipe, spec.name) for spec in recipe.tasks]
    plan = recall_choice(make_plan(outline(survey(recipe)), inspect_base(recipe), facts))
    return load_plan(save_plan(plan))


def merge_whole(world: World) -> tuple[Plan, Version]:
    """The plan, its α chosen, and what was published; the lease is released."""
    plan = planned(world)
    lease = take_lease(plan)
    for task in plan.tasks:
        collect_task(plan, task.name)
    for weight in plan.decomposed:
        merge_one(plan, weight)
    if plan.alpha is None:
        plan = _searched(plan)
        lease = lease.refresh(plan)
    finish(plan)
    if plan.recipe.experts is not None:
        for weight in expert_weights(plan):
            decompose_one(plan, weight)
        fit_router(plan)
        assemble(plan)
    for job in evaluation_jobs(plan):
        evaluate(plan, job)
    version = publish(plan, {"accuracy": accuracy(plan)})
    lease.release()
    return plan, version


def _searched(plan: Plan) -> Plan:
    write_line(plan)
    if plan.recipe.alpha == "label_free":
        for task in plan.tasks:
            write_references(plan, task.name)
    curve: dict[float, float] = {}
    while (alpha := next_alpha(curve)) is not None:
        curve[alpha] = mean_score(score(plan, alpha, task.name) for task in plan.tasks)
    found = keep_choice(plan, choose(str(plan.recipe.alpha), curve))
    save_plan(found)
    return found
