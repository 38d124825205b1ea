"""The experts of ESM++, a part of the merge flow: every weight's at once, and the router beside them."""

from prefect import unmapped

from esm_core.experts.places import expert_weights
from esm_core.plan import load_plan
from flows.runner import gpu_workers
from flows.stages import Stages
from tasks import merge as tasks


def build_experts(plan_url: str, stages: Stages) -> None:
    """Make the experts and the router of a plan whose merged checkpoint is written, and their files."""
    plan = load_plan(plan_url)
    weights = expert_weights(plan)
    with gpu_workers(plan.recipe.fuse.device):
        made = tasks.make_experts.map(unmapped(plan_url), weights)
    with gpu_workers(plan.recipe.evaluate.device):
        router = tasks.make_router.submit(plan_url)
    stages.gather("making experts", {**dict(zip(weights, made, strict=True)), "router": router})
    stages.gather("assembling experts", {"the experts' files": tasks.assemble_experts.submit(plan_url)})
