"""The tasks of a merge, in the order they run."""

import logging

from prefect import task

from esm_core.alpha.choice import choose
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import write_references
from esm_core.alpha.scores import keep_choice, recall_choice, score
from esm_core.artifacts import Version, open_version
from esm_core.collected import folders
from esm_core.evaluate import EvaluationJob, accuracy, evaluate, routing, routing_accuracy
from esm_core.experts.places import expert_folder, routed_folder, router_folder
from esm_core.experts.stage_decompose import decompose_one
from esm_core.facts import CheckpointFacts, TaskFacts
from esm_core.gate import apply_gate, verdict_line
from esm_core.inspection import inspect_base, inspect_task
from esm_core.layer_merges import merge_one
from esm_core.outline import Outline, outline
from esm_core.plan import load_plan, make_plan, save_plan
from esm_core.plan_page import preview_page
from esm_core.preview import preview
from esm_core.publish import publish
from esm_core.recipe import Recipe
from esm_core.report.spectra import measure_spectra, spectra_file
from esm_core.routing.assemble import assemble
from esm_core.routing.stage_fit import fit_router
from esm_core.run_record import Part, StageRecord
from esm_core.stage_collect import collect_task
from esm_core.static import finish
from esm_core.storage import Location
from esm_core.store import prepare_store
from esm_core.survey import survey
from tasks.options import OPTIONS, log_name, set_threads
from tasks.parts import do_part

log = logging.getLogger(log_name)


@task(name="survey", **OPTIONS)
def survey_inputs(recipe: Recipe) -> Outline:
    """Check headers and listings of every input, and that the store can be written."""
    found = outline(survey(recipe))
    prepare_store(Location.parse(recipe.store))
    log.info("surveyed %d fine-tunes", len(recipe.tasks))
    return found


@task(name="preview", **OPTIONS)
def preview_merge(recipe: Recipe) -> str:
    """What a merge would do, as a Markdown page; nothing is written."""
    return preview_page(preview(survey(recipe)))


@task(name="inspect-base", **OPTIONS)
def inspect_the_base(recipe: Recipe) -> CheckpointFacts:
    set_threads()
    return inspect_base(recipe)


@task(name="inspect", task_run_name="inspect-{name}", **OPTIONS)
def inspect_one(recipe: Recipe, name: str) -> TaskFacts:
    set_threads()
    facts = inspect_task(recipe, name)
    log.info("inspected %s", name)
    return facts


@task(name="plan", **OPTIONS)
def plan_merge(found: Outline, base: CheckpointFacts, tasks: list[TaskFacts]) -> str:
    return save_plan(recall_choice(make_plan(found, base, tasks)))


def report_unchanged(version: Version) -> None:
    """Say in the log that nothing was published."""
    name = version.manifest["name"]
    log.info("up to date: %s %s was made from the same inputs and settings", name, version.label)


@task(name="collect", task_run_name="collect-{name}", **OPTIONS)
def collect(plan_url: str, name: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    what = f"the activation shifts of {name}"
    return do_part("collected", what, folders(plan, name), lambda: collect_task(plan, name))


@task(name="merge-layer", task_run_name="merge-{weight}", **OPTIONS)
def merge_layer(plan_url: str, weight: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    return do_part("merged", weight, [plan.layer_folder(weight)], lambda: merge_one(plan, weight))


@task(name="spectra", task_run_name="spectra-{name}", **OPTIONS)
def measure_updates(plan_url: str, name: str) -> Part:
    """For the report: how the energy of a fine-tune's update is spread, in a few layers."""
    set_threads()
    plan = load_plan(plan_url)
    reused = spectra_file(plan, name).is_file()
    return Part(measure_spectra(plan, name).size(), reused)


@task(name="line", **OPTIONS)
def write_the_line(plan_url: str) -> str:
    set_threads()
    return write_line(load_plan(plan_url)).url


@task(name="reference", task_run_name="reference-{name}", **OPTIONS)
def measure_references(plan_url: str, name: str) -> str:
    set_threads()
    return write_references(load_plan(plan_url), name).url


@task(name="score", task_run_name="score-{alpha}-{name}", **OPTIONS)
def score_alpha(plan_url: str, alpha: float, name: str) -> float:
    set_threads()
    return score(load_plan(plan_url), alpha, name)


@task(name="choose-alpha", **OPTIONS)
def choose_alpha(plan_url: str, curve: dict[float, float]) -> str:
    """The URL of the plan with the best α of the curve."""
    plan = load_plan(plan_url)
    chosen = choose(str(plan.recipe.alpha), curve)
    log.info("chose alpha %s of %d tried (%s)", chosen.value, len(curve), chosen.method)
    return save_plan(keep_choice(plan, chosen))


@task(name="finish", **OPTIONS)
def finish_weights(plan_url: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    return do_part("wrote", "the merged checkpoint", [plan.static_folder], lambda: finish(plan))


@task(name="decompose-expert", task_run_name="experts-{weight}", **OPTIONS)
def make_experts(plan_url: str, weight: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    folder = expert_folder(plan, weight)
    return do_part("made", f"the experts of {weight}", [folder], lambda: decompose_one(plan, weight))


@task(name="router", **OPTIONS)
def make_router(plan_url: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    return do_part("fitted", "the router", [router_folder(plan)], lambda: fit_router(plan))


@task(name="assemble-experts", **OPTIONS)
def assemble_experts(plan_url: str) -> Part:
    set_threads()
    plan = load_plan(plan_url)
    return do_part("wrote", "the experts", [routed_folder(plan)], lambda: assemble(plan))


@task(name="evaluate", task_run_name="evaluate-{job.label}", **OPTIONS)
def evaluate_model(plan_url: str, job: EvaluationJob) -> None:
    set_threads()
    evaluate(load_plan(plan_url), job)
    log.info("evaluated %s", job.label)


@task(name="publish", **OPTIONS)
def publish_version(plan_url: str, stages: list[StageRecord]) -> str:
    """The label of the published version."""
    set_threads()
    plan = load_plan(plan_url)
    routed = routing(plan)
    metrics = {
        "accuracy": accuracy(plan),
        "routing": routed,
        "routing_accuracy": routing_accuracy(routed),
    }
    version = publish(plan, metrics, stages)
    log.info("published %s %s", plan.recipe.name, version.label)
    return version.label


@task(name="promote", **OPTIONS)
def promote_if_good(plan_url: str, label: str) -> None:
    """Promote a version where the recipe has a gate and the version passes it; says why or why not."""
    plan = load_plan(plan_url)
    if plan.recipe.promote_if is None:
        return
    version = open_version(plan.store, plan.recipe.name, label)
    log.info(verdict_line(plan.recipe, version, apply_gate(plan.store, plan.recipe, version)))
