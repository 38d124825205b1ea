"""The merge flow: survey, inspect, plan, collect, merge layers, choose α, finish, publish."""

from prefect import flow, unmapped

from esm_core.evaluate import evaluation_jobs
from esm_core.plan import load_plan
from esm_core.publish import up_to_date
from esm_core.recipe_file import load_recipe
from flows.alpha_search import search_alpha
from flows.experts import build_experts
from flows.gather import gather
from tasks import merge as tasks


@flow(name="merge", persist_result=False)
def merge(recipe: str) -> str:
    """Merge the fine-tunes of a recipe and publish the result as a new version.

    Stages whose output is in the store are not done again. Nothing is published where the latest
    version was made from the same inputs and settings.

    Parameters
    ----------
    recipe : str
        Path or URL of the recipe.

    Returns
    -------
    str
        URL of the published version.
    """
    loaded = load_recipe(recipe)
    names = [spec.name for spec in loaded.tasks]
    found = tasks.survey_inputs(loaded)
    base = tasks.inspect_the_base(loaded)
    inspections = tasks.inspect_one.map(unmapped(loaded), names)
    facts = gather("inspecting", dict(zip(names, inspections, strict=True)))
    plan_url = tasks.plan_merge(found, base, facts)
    plan = load_plan(plan_url)
    current = up_to_date(plan)
    if current is not None:
        return current.folder.url
    gather("collecting", dict(zip(names, tasks.collect.map(plan_url, names), strict=True)))
    weights = plan.decomposed
    gather("merging", dict(zip(weights, tasks.merge_layer.map(plan_url, weights), strict=True)))
    if plan.alpha is None:
        plan_url = search_alpha(plan_url, names, on_proxies=plan.recipe.alpha == "label_free")
    tasks.finish_weights(plan_url)
    if plan.recipe.experts is not None:
        build_experts(plan_url)
    jobs = evaluation_jobs(plan)
    evaluations = tasks.evaluate_model.map(plan_url, jobs)
    gather("evaluating", {job.label: future for job, future in zip(jobs, evaluations, strict=True)})
    return tasks.publish_version(plan_url)
