"""What of the store a merge is made from, and a later merge of the same inputs finds done."""

from esm_core.alpha.files import choice_file, features_folder, line_folder, score_file
from esm_core.bases import basis_folders
from esm_core.collected import folders
from esm_core.evaluate import ROUTED, evaluation_file, evaluation_jobs
from esm_core.experts.places import expert_folder, expert_weights, routed_folder, router_folder
from esm_core.labelled import zero_shot_file
from esm_core.plan import Plan, plan_file
from esm_core.report.spectra import spectra_file
from esm_core.storage import Location


def reachable(plan: Plan) -> list[str]:
    """Folders and files of the store that a plan's merge reads or writes, relative to it, sorted.

    Where α is not known yet, what depends on it is missing, but for the scores: a search may ask for any,
    so all of ``scores`` is named.
    """
    places = [plan_file(plan), *(place for task in plan.tasks for place in folders(plan, task.name))]
    places += [*basis_folders(plan), plan.store / "merges" / plan.merge_digest]
    places += [spectra_file(plan, task.name) for task in plan.tasks]
    places += [zero_shot_file(plan, t.name) for t in plan.tasks if t.spec.zero_shot is not None]
    places += _search(plan)
    if plan.alpha is not None:
        places.append(plan.static_folder)
        if plan.recipe.experts is not None:
            places += [expert_folder(plan, weight).parent for weight in expert_weights(plan)]
            places += [router_folder(plan), routed_folder(plan)]
    merged = {"esm", *ROUTED} if plan.alpha is None else set()
    for job in evaluation_jobs(plan):
        if job.method not in merged:
            places += [evaluation_file(plan, job, name) for name in job.tasks]
    inside = f"{plan.store.url}/"
    weights = [plan.base.weights, *(task.facts.checkpoint.weights for task in plan.tasks)]
    imports = [url for url in weights if url.startswith(f"{inside}imports/")]
    return sorted({url.removeprefix(inside) for url in [*(place.url for place in places), *imports]})


def _search(plan: Plan) -> list[Location]:
    if isinstance(plan.recipe.alpha, float):
        return []
    places = [line_folder(plan), choice_file(plan)]
    if plan.recipe.alpha == "label_free":
        places += [features_folder(plan, task.name) for task in plan.tasks]
    if plan.alpha is None:
        return [*places, plan.store / "scores"]
    tried = [alpha for alpha, _ in plan.alpha.curve]
    return [*places, *(score_file(plan, alpha, task.name) for alpha in tried for task in plan.tasks)]
