"""A plan as a page: what is merged, from what, and what is in the store already."""

from typing import Any

from esm_core.collected import is_collected
from esm_core.plan import Plan
from esm_core.stages import is_complete


def plan_page(plan: Plan) -> str:
    """Markdown of a plan whose inputs are inspected."""
    reused = [task.name for task in plan.tasks if is_collected(plan, task.name)]
    layers = sum(is_complete(plan.layer_folder(weight)) for weight in plan.decomposed)
    lines = [
        f"# {plan.recipe.name}",
        "",
        f"{plan.architecture.name} ({plan.architecture.activation}), alpha {plan.recipe.alpha}, "
        f"experts {plan.recipe.experts.rank if plan.recipe.experts else 'off'}, into `{plan.store}`.",
        "",
        "| task | checkpoint | sha256 | MB | proxies | activation shifts |",
        "|---|---|---|---|---|---|",
    ]
    for task in plan.tasks:
        facts = task.facts.checkpoint
        state = "reused" if task.name in reused else "to be collected"
        lines.append(
            f"| {task.name} | `{facts.url}` | {facts.sha256[:12]} | {facts.bytes / 1e6:.1f} | "
            f"{len(task.facts.proxies)} | {state} |"
        )
    lines += ["", f"{layers} of {len(plan.decomposed)} layers are merged already."]
    return "\n".join(lines) + "\n"


def preview_page(content: dict[str, Any]) -> str:
    """Markdown of what :func:`esm_core.preview.preview` found; the page of a dry run."""
    states = {None: "not inspected yet", True: "in the store", False: "to be collected"}
    cost = content["estimates"]
    stored = sum(cost[f"{kind}_store_bytes"] for kind in ("shift", "basis", "merge"))
    lines = [
        f"# {content['name']} (dry run: nothing was done)",
        "",
        f"{content['architecture']} ({content['activation']}), alpha {content['alpha']}, "
        f"into `{content['store']}`.",
        "",
        "| task | checkpoint | MB | proxies | activation shifts |",
        "|---|---|---|---|---|",
    ]
    for name, task in content["tasks"].items():
        lines.append(
            f"| {name} | `{task['checkpoint']}` | {task['bytes'] / 1e6:.1f} | {task['proxy_images']} | "
            f"{states[task['collected']]} |"
        )
    lines += [
        "",
        f"Reads {cost['checkpoint_bytes'] / 1e6:.1f} MB of fine-tunes, stores "
        f"{stored / 1e6:.1f} MB, takes about "
        f"{cost['core_seconds']:.0f} core seconds and "
        f"{cost['peak_memory_bytes_per_worker'] / 1e6:.0f} MB of memory per worker beside PyTorch.",
    ]
    if content["up_to_date"]:
        lines += ["", f"Up to date: {content['up_to_date']} was published from exactly this."]
    return "\n".join(lines) + "\n"
