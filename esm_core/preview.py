"""What a merge would do, before it does it: sizes, costs, and what is already in the store."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from esm_core.alpha.choice import search_length
from esm_core.alpha.scores import recall_choice
from esm_core.bases import made_rank
from esm_core.collect_cost import collection_cost
from esm_core.collected import is_collected
from esm_core.experts.check import expert_bytes
from esm_core.images import open_images
from esm_core.inspection import NotInspected, recall_base, recall_task
from esm_core.layers import layer_kind
from esm_core.merge import merges_essentially
from esm_core.outline import outline
from esm_core.plan import Plan, make_plan
from esm_core.publish import published
from esm_core.recipe import Recipe
from esm_core.stages import is_complete
from esm_core.storage import Location
from esm_core.survey import Survey

_DOUBLE = 8
_SINGLE = 4

_EIGEN, _REDUCTION = 9.0, 2.5
"""Work of a symmetric eigenproblem, and of its reduction alone, in products of that many flops per n³."""


def recall_plan(found: Survey) -> Plan | None:
    """The plan, if every input is known to the ledger from an earlier run; reads no content.

    A searched α is known where an earlier run has chosen it.
    """
    try:
        facts = [recall_task(found.recipe, spec.name) for spec in found.recipe.tasks]
        return recall_choice(make_plan(outline(found), recall_base(found.recipe), facts))
    except NotInspected:
        return None


def preview(found: Survey) -> dict[str, Any]:
    """The plan as JSON values: inputs with sizes, stages with what is cached, estimates.

    ``cached`` is null where an input has not been inspected yet, so nothing is known of it.
    """
    plan = recall_plan(found)
    recipe = found.recipe
    tasks = {
        spec.name: {
            "checkpoint": spec.checkpoint,
            "bytes": found.tasks[spec.name].tower.location.size(),
            "layout": found.tasks[spec.name].tower.layout,
            "activation_source": found.tasks[spec.name].activation_source,
            "ignored_tensors": len(found.tasks[spec.name].tower.ignored),
            "proxy_images": len(found.proxies[spec.name]),
            "collected": is_collected(plan, spec.name) if plan else None,
        }
        for spec in sorted(recipe.tasks, key=lambda spec: spec.name)
    }
    current = published(plan) if plan else None
    weights = {name: info.shape for name, info in found.base.tower.tensors.items()}
    matrices = [name for name, shape in weights.items() if len(shape) == 2]
    return {
        "name": recipe.name,
        "store": recipe.store,
        "architecture": found.architecture.name,
        "activation": found.architecture.activation,
        "text_tower": "from the base" if found.text else "placeholder (the base has none)",
        "alpha": recipe.alpha,
        "alpha_value": _alpha_value(recipe, plan),
        "tasks": tasks,
        "weights": {
            "essential": sum(map(merges_essentially, weights)),
            "tsv_m": len(matrices) - sum(map(merges_essentially, weights)),
            "mean": len(weights) - len(matrices),
        },
        "layers_merged": sum(is_complete(plan.layer_folder(w)) for w in plan.decomposed) if plan else None,
        "static_done": _static_done(plan) if plan else None,
        "up_to_date": current.label if current else None,
        "estimates": {
            "checkpoint_bytes": sum(t.tower.location.size() for t in found.tasks.values()),
            **estimates(recipe, weights, measured_rate()),
        },
    }


def _alpha_value(recipe: Recipe, plan: Plan | None) -> float | None:
    if isinstance(recipe.alpha, float):
        return recipe.alpha
    return plan.alpha.value if plan and plan.alpha else None


def _static_done(plan: Plan) -> bool:
    return plan.alpha is not None and is_complete(plan.static_folder)


def estimates(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], rate: float) -> dict[str, float]:
    """Bytes that a merge stores, memory of a worker and core seconds, from the shapes of the tower alone.

    Parameters
    ----------
    shapes : mapping
        Name (with ``visual.``) → shape of every tensor of the tower.
    rate : float
        Float64 operations per second of one core, as of :func:`measured_rate`.

    Notes
    -----
    Counted are the collection, the merge of every layer and the search for α. Not counted are reading and
    writing, the fit of experts and router, the evaluation, and what Prefect does.
    """
    count = len(recipe.tasks)
    positions = shapes["visual.positional_embedding"][0]
    tokens = recipe.samples * positions
    parameters = sum(math.prod(shape) for shape in shapes.values())
    merge_flops, peak, basis_bytes = 0.0, 3.0 * 4 * parameters, 0.0
    shift_bytes, collect_flops, collect_memory = collection_cost(recipe, shapes)
    for name, shape in shapes.items():
        if len(shape) == 2 and recipe.fuse.keep_bases:
            basis_bytes += _basis_bytes(recipe, name, shape, tokens)
        if layer_kind(name) is not None:
            flops, memory = _layer_cost(shape[0], shape[1], tokens, count)
            merge_flops += flops
            peak = max(peak, memory)
    forward_flops = 2.0 * parameters * positions
    collect_flops += recipe.samples * forward_flops
    return {
        "shift_store_bytes": count * shift_bytes,
        "basis_store_bytes": basis_bytes,
        "expert_bytes": float(expert_bytes(recipe.experts, shapes, count)) if recipe.experts else 0.0,
        "merge_store_bytes": float(_SINGLE * parameters),
        "peak_memory_bytes_per_worker": max(peak, collect_memory),
        "core_seconds": (count * collect_flops + merge_flops + _searched(recipe) * forward_flops) / rate,
    }


def _basis_bytes(recipe: Recipe, name: str, shape: tuple[int, ...], tokens: int) -> float:
    """Bytes of the kept decompositions of one matrix, of all tasks together."""
    count, essential = len(recipe.tasks), merges_essentially(name)
    rank = recipe.method.rank or made_rank(shape[0] if essential else min(shape), count)
    return float(_SINGLE * count * min(rank, tokens if essential else rank, *shape) * sum(shape))


def _searched(recipe: Recipe) -> int:
    """How many images the search for α runs through a tower."""
    if recipe.alpha == "label_free":
        return len(recipe.tasks) * recipe.samples * (search_length() + 2)
    if recipe.alpha == "validation":
        urls = [spec.validation for spec in recipe.tasks if spec.validation is not None]
        return search_length() * sum(len(open_images(Location.parse(url)).sample_ids()) for url in urls)
    return 0


def _layer_cost(rows_out: int, width: int, tokens: int, count: int) -> tuple[float, float]:
    """Flops, and bytes, of decomposing and fusing one layer; those in float32 count half."""
    seen = min(tokens, width)
    small = min(seen, rows_out)
    rank = min(max(1, rows_out // count), small)
    moment = rows_out * width**2 + 4.0 * width**3 if rows_out >= width else 1.0 * seen * rows_out**2
    per_task = moment + _EIGEN * small**3 + 2.0 * rows_out * width * rank
    kept = count * rank
    side_e, side_c = min(rows_out, kept), min(width, kept)
    flat = 3.0 * kept * width * side_c + _EIGEN * side_c**3
    if 2 * width <= side_e:
        times = (rows_out * side_e**2 + _REDUCTION * side_e**3 + 6.0 * side_e**2 * width) / 2
    else:
        times = rows_out * side_e**2 + _EIGEN * side_e**3 + 2.0 * rows_out * side_e * width
    memory = _DOUBLE * (4.0 * kept * (rows_out + width) + 3.0 * seen * (width + rows_out))
    return count * per_task + flat + times, memory


def measured_rate() -> float:
    """Float64 matrix-product flops per second of one thread here, from a tenth of a second of work."""
    torch.set_num_threads(1)
    matrix = torch.ones(384, 384, dtype=torch.float64)
    matrix @ matrix
    started, repeats = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        matrix @ matrix
        repeats += 1
    return repeats * 2 * 384**3 / (time.perf_counter() - started)
