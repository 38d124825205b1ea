"""Where the experts of a plan are kept, and what determines them."""

from typing import Any

from esm_core.collected import inputs_folder
from esm_core.experts.check import expert_weights_of
from esm_core.plan import Plan
from esm_core.settings import ExpertSettings
from esm_core.stages import digest_of
from esm_core.storage import Location


def expert_settings(plan: Plan) -> ExpertSettings:
    """The settings of a plan whose recipe asks for experts."""
    assert plan.recipe.experts is not None
    return plan.recipe.experts


def expert_weights(plan: Plan) -> list[str]:
    """Weights of the plan's tower that get low-rank experts, sorted."""
    return expert_weights_of(expert_settings(plan), plan.rules)


def expert_folder(plan: Plan, weight: str) -> Location:
    """Where one weight's experts are kept."""
    identity = {
        "static": plan.static_folder.name,
        "shifts": {task.name: inputs_folder(plan, task.name, weight).name for task in plan.tasks},
        "rank": expert_settings(plan).rank,
        "fuse": plan.fuse_identity,
    }
    return plan.store / "experts" / digest_of("experts", identity) / weight


def router_folder(plan: Plan) -> Location:
    """Where the fitted router is kept."""
    settings = expert_settings(plan)
    identity: dict[str, Any] = {
        "static": plan.static_folder.name,
        "router": settings.router,
        "proxies": {task.name: task.facts.routing_proxies_sha256 for task in plan.tasks},
        "evaluate": plan.recipe.evaluate.model_dump(mode="json"),
    }
    if settings.router == "cosine":
        identity["layers"] = sorted(settings.layers)
        identity["shifts"] = {
            task.name: sorted(
                {inputs_folder(plan, task.name, weight).name for weight in expert_weights(plan)}
            )
            for task in plan.tasks
        }
    return plan.store / "routers" / digest_of("router", identity)


def routed_folder(plan: Plan) -> Location:
    """Where the files of the experts are put together."""
    weights = expert_weights(plan)
    identity = {
        "experts": [expert_folder(plan, weight).url.removeprefix(plan.store.url) for weight in weights],
        "router": router_folder(plan).name,
        "settings": expert_settings(plan).model_dump(mode="json", include={"layers", "extras", "dtype"}),
    }
    return plan.store / "routed" / digest_of("routed", identity)
