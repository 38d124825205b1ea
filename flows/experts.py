"""The experts of ESM++, a part of the merge flow: every weight's at once, and the router beside them."""

from prefect import unmapped

from esm_core.experts.places import expert_weights
from esm_core.plan import load_plan
from flows.gather import gather
from tasks import merge as tasks


def build_experts(plan_url: str) -> str:
    """Make the experts and the router of a plan whose merged checkpoint is written.

    Returns
    -------
    str
        URL of the folder with the files that are published.
    """
    weights = expert_weights(load_plan(plan_url))
    futures = dict(zip(weights, tasks.make_experts.map(unmapped(plan_url), weights), strict=True))
    futures["router"] = tasks.make_router.submit(plan_url)
    gather("making experts", futures)
    return tasks.assemble_experts(plan_url)
