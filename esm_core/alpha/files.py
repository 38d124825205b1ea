"""Where the search of α keeps what it computes, under digests of everything that determines it."""

from typing import Any

from esm_core.alpha.choice import TOLERANCE
from esm_core.plan import Plan
from esm_core.recipe import MAX_ALPHA
from esm_core.stages import digest_of
from esm_core.storage import Location


def line_folder(plan: Plan) -> Location:
    """Folder of the merged towers of every α; see :mod:`esm_core.alpha.line`."""
    identity = {"merge": plan.merge_digest, "inter_layer": plan.recipe.method.inter_layer}
    return plan.store / "lines" / digest_of("line", identity)


def features_folder(plan: Plan, name: str) -> Location:
    """Folder of the base's and the fine-tune's features of a task's proxies."""
    identity = {
        **plan.expert_identity(name),
        "base": plan.base.identity,
        "architecture": plan.architecture.identity,
        "proxies": plan.task(name).facts.proxies_sha256,
        "evaluate": plan.recipe.evaluate.model_dump(mode="json"),
    }
    return plan.store / "features" / digest_of("features", identity)


def score_file(plan: Plan, alpha: float, name: str) -> Location:
    """The score of a value of α for one task."""
    identity = {**_score_identity(plan, name), "alpha": alpha}
    return plan.store / "scores" / f"{digest_of('score', identity)}.json"


def choice_file(plan: Plan) -> Location:
    """The α that the search of a plan has chosen."""
    identity = {
        "tasks": {task.name: _score_identity(plan, task.name) for task in plan.tasks},
        "search": [0.0, MAX_ALPHA, TOLERANCE],
    }
    return plan.store / "alphas" / f"{digest_of('alpha', identity)}.json"


def _score_identity(plan: Plan, name: str) -> dict[str, Any]:
    identity = {
        "method": plan.recipe.alpha,
        "line": line_folder(plan).name,
        "architecture": plan.architecture.identity,
        "evaluate": plan.recipe.evaluate.model_dump(mode="json"),
    }
    if plan.recipe.alpha == "label_free":
        return {**identity, "features": features_folder(plan, name).name}
    images = plan.task(name).facts.validation
    assert images is not None
    return {**identity, "validation": images.sha256, "head": plan.head_identity(name)}
