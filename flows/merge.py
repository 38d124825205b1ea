"""The merge flow: survey, inspect, plan, collect, merge layers, choose α, finish, publish."""

from typing import Any, Literal

from prefect import flow, unmapped
from prefect.futures import PrefectFuture

from esm_core.artifacts import open_version
from esm_core.evaluate import evaluation_jobs
from esm_core.leases import Lease, take_lease
from esm_core.overrides import override
from esm_core.plan import load_plan
from esm_core.plan_page import plan_page
from esm_core.publish import up_to_date
from esm_core.recipe import Recipe
from esm_core.registry import load_resolved
from flows.alpha_search import search_alpha
from flows.experts import build_experts
from flows.runner import check_workers, gpu_workers, task_runner
from flows.show import name_run, show_page, show_version
from flows.stages import Stages
from tasks import merge as tasks


@flow(name="merge", persist_result=False, task_runner=task_runner())
def merge(
    recipe: str,
    alpha: str = "recipe",
    rank: int = 0,
    experts: Literal["recipe", "on", "off"] = "recipe",
    dry_run: bool = False,
) -> str:
    """Merge the fine-tunes of a recipe and publish the result as a new version.

    Stages whose output is in the store are not done again. Nothing is published where the latest
    version was made from the same inputs and settings.

    Parameters
    ----------
    recipe : str
        Path or URL of the recipe.
    alpha : str
        Merging coefficient in place of the recipe's: a number, label_free or validation.
    rank : int
        Rank of the experts in place of the recipe's; 0 keeps it.
    experts : str
        Whether routed experts are made: recipe, on or off.
    dry_run : bool
        Only say what would be done, as an artifact of this run.

    Returns
    -------
    str
        URL of the published version; empty for a dry run.
    """
    loaded = override(load_resolved(recipe), alpha, rank, experts)
    name_run(f"merge-{loaded.name}")
    if dry_run:
        show_page(loaded.name, "dry-run", tasks.preview_merge(loaded))
        return ""
    check_workers(loaded)
    stages = Stages(loaded.name)
    plan_url = inspect_and_plan(loaded, stages)
    plan = load_plan(plan_url)
    lease = take_lease(plan)
    show_page(loaded.name, "plan", plan_page(plan))
    version = up_to_date(plan)
    if version is None:
        label = merge_planned(plan_url, stages, lease)
        version = open_version(plan.store, loaded.name, label)
    else:
        tasks.report_unchanged(version)
    show_version(loaded.name, version)
    tasks.promote_if_good(plan_url, version.label)
    lease.release()
    return version.folder.url


def inspect_and_plan(recipe: Recipe, stages: Stages) -> str:
    """Look at every input, and put the plan into the store; returns its URL."""
    names = [spec.name for spec in recipe.tasks]
    found = tasks.survey_inputs(recipe)
    base = tasks.inspect_the_base.submit(recipe)
    inspections = tasks.inspect_one.map(unmapped(recipe), names)
    futures: dict[str, PrefectFuture[Any]] = {"the base": base, **dict(zip(names, inspections, strict=True))}
    base_facts, *facts = stages.gather("inspecting", futures)
    return tasks.plan_merge(found, base_facts, facts)


def merge_planned(plan_url: str, stages: Stages, lease: Lease) -> str:
    """Do everything that a plan says; returns the label of the published version."""
    plan = load_plan(plan_url)
    collect_all(plan_url, stages)
    weights = plan.decomposed
    with gpu_workers(plan.recipe.fuse.device):
        merged = tasks.merge_layer.map(plan_url, weights)
    names = [task.name for task in plan.tasks]
    measured = tasks.measure_updates.map(plan_url, names)
    stages.gather("merging", dict(zip(weights, merged, strict=True)))
    stages.gather("measuring updates", dict(zip(names, measured, strict=True)))
    if plan.alpha is None:
        plan_url = search_alpha(plan_url, stages)
    lease.refresh(load_plan(plan_url))
    stages.gather("finishing", {"the merged checkpoint": tasks.finish_weights.submit(plan_url)})
    if plan.recipe.experts is not None:
        build_experts(plan_url, stages)
    jobs = evaluation_jobs(plan)
    with gpu_workers(plan.recipe.evaluate.device):
        evaluations = tasks.evaluate_model.map(plan_url, jobs)
    stages.gather("evaluating", {job.label: future for job, future in zip(jobs, evaluations, strict=True)})
    return tasks.publish_version(plan_url, stages.records)


def collect_all(plan_url: str, stages: Stages) -> None:
    """Collect the layer inputs of every fine-tune of a plan."""
    plan = load_plan(plan_url)
    names = [task.name for task in plan.tasks]
    with gpu_workers(plan.recipe.collect.device, preferred=True):
        collected = tasks.collect.map(plan_url, names)
    stages.gather("collecting", dict(zip(names, collected, strict=True)))
