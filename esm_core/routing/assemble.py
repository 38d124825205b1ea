"""Putting the experts of a plan together: ``experts.safetensors`` and ``routing.json``."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from esm_core.checkpoints import TensorInfo, VisionCheckpoint, write_safetensors
from esm_core.errors import IntegrityError
from esm_core.experts.check import map_shape
from esm_core.experts.file import EXPERTS_NAME, ROUTING_NAME, Experts, RoutingConfig, read_experts
from esm_core.experts.names import small_parameters
from esm_core.experts.places import expert_folder, expert_settings, expert_weights, routed_folder
from esm_core.experts.stage_decompose import read_part
from esm_core.layer_merges import open_towers
from esm_core.plan import Plan
from esm_core.routing.stage_fit import read_router, router_facts
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.static import static_tower
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import Towers, read_weight

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def assemble(plan: Plan) -> Location:
    """Write the two files of the experts; at once where they are already there. Holds one tensor at a time.

    Returns
    -------
    Location
        The folder; its marker holds sizes, sha256 and what :func:`expert_facts` says.

    Raises
    ------
    IntegrityError
        Experts or the router are damaged in the store.
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = routed_folder(plan)
    if is_complete(folder):
        return folder
    settings = expert_settings(plan)
    weights, towers, static = expert_weights(plan), open_towers(plan), static_tower(plan)
    small = small_parameters(plan.rules) if settings.extras else []
    router = read_router(plan)
    dtype, count, rank = _DTYPES[settings.dtype], len(plan.tasks), settings.rank
    tensors = {f"router/{name}": TensorInfo(tuple(t.shape), t.dtype) for name, t in router.items()}
    for name in small:
        tensors[f"delta/{name}"] = TensorInfo((count, *static.tensors[name].shape), dtype)
    for weight in weights:
        d_out, d_in = map_shape(weight, static.tensors[weight].shape)
        tensors[f"low_rank/{weight}/A"] = TensorInfo((count, rank, d_in), dtype)
        tensors[f"low_rank/{weight}/B"] = TensorInfo((count, d_out, rank), dtype)

    def read(key: str) -> Tensor:
        kind, _, name = key.partition("/")
        if kind == "router":
            return router[name]
        if kind == "delta":
            return _delta(towers, static, name).to(dtype)
        weight, _, part = name.rpartition("/")
        return read_part(plan, weight, part).to(dtype)

    with unchanged(plan):
        size, sha256 = write_safetensors(folder / EXPERTS_NAME, dict(sorted(tensors.items())), read)
    facts = router_facts(plan)
    config = RoutingConfig(
        tasks=tuple(task.name for task in plan.tasks),
        layers=settings.layers,
        rank=rank,
        extras=settings.extras,
        router=facts["router"],
        scope=facts["scope"],
        left_static=tuple(sorted(set(plan.rules) - set(weights) - set(small))),
    )
    content = (json.dumps(config.model_dump(mode="json"), indent=2) + "\n").encode()
    (folder / ROUTING_NAME).write_bytes(content)
    kept = {weight: read_marker(expert_folder(plan, weight))["kept"] for weight in weights}
    digests = {EXPERTS_NAME: sha256, ROUTING_NAME: hashlib.sha256(content).hexdigest()}
    write_marker(folder, {"sha256": digests, "bytes": size, "kept_energy": kept, **facts})
    return folder


def assembled_experts(plan: Plan) -> Experts:
    """The experts that will be published, float32.

    Raises
    ------
    IntegrityError
        The files are not those the marker names.
    """
    folder = routed_folder(plan)
    digests, content = read_marker(folder)["sha256"], {}
    for name in (ROUTING_NAME, EXPERTS_NAME):
        content[name] = (folder / name).read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != digests[name]:
            raise IntegrityError(f"{folder / name}: is damaged. Delete {folder} and run again.")
    return read_experts(content[ROUTING_NAME], content[EXPERTS_NAME], folder)


def expert_facts(plan: Plan) -> dict[str, Any]:
    """What a manifest says of the experts: settings, sizes, router, held-out accuracy and confusion."""
    facts = read_marker(routed_folder(plan))
    return {
        "settings": expert_settings(plan).model_dump(mode="json"),
        "bytes": facts["bytes"],
        "router": facts["router"],
        "scope": facts["scope"],
        "held_out": facts["held_out"],
        "kept_energy": facts["kept_energy"],
    }


def _delta(towers: Towers, static: VisionCheckpoint, name: str) -> Tensor:
    """``[T, *shape]`` float64: each task's own value against the published one."""
    own = torch.stack([read_weight(tuned, towers.base, name) for tuned in towers.tuned]).double()
    return own - static.read(name).double()
