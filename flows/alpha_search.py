"""The search for α, a part of the merge flow: one value after the other, all tasks of a value at once."""

import logging

from prefect import unmapped

from esm_core.alpha.choice import mean_score, next_alpha, search_length
from esm_core.plan import load_plan
from flows.runner import gpu_workers
from flows.stages import Stages
from tasks import merge as tasks
from tasks.options import log_name

log = logging.getLogger(log_name)


def search_alpha(plan_url: str, stages: Stages) -> str:
    """Find the α with the best mean score over tasks; scores in the store are not computed again.

    Parameters
    ----------
    plan_url : str
        A plan whose layers are merged and whose α is not known.
    stages : Stages
        Of this run.

    Returns
    -------
    str
        URL of the plan with α.
    """
    plan = load_plan(plan_url)
    names, device = [task.name for task in plan.tasks], plan.recipe.evaluate.device
    stages.gather("drawing the line of alphas", {"the line": tasks.write_the_line.submit(plan_url)})
    if plan.recipe.alpha == "label_free":
        with gpu_workers(device):
            references = tasks.measure_references.map(plan_url, names)
        stages.gather("measuring the proxies", dict(zip(names, references, strict=True)))
    curve: dict[float, float] = {}
    in_all = search_length() * len(names)
    while (alpha := next_alpha(curve)) is not None:
        with gpu_workers(device):
            scores = tasks.score_alpha.map(plan_url, unmapped(alpha), names)
        found = stages.gather("searching alpha", dict(zip(names, scores, strict=True)), in_all)
        curve[alpha] = mean_score(found)
        log.info("alpha %s scores %.4f", alpha, curve[alpha])
    return tasks.choose_alpha(plan_url, curve)
