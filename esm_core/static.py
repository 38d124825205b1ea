"""The last numerical stage: inter-layer scaling, α, and the merged checkpoint, tensor by tensor."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esm_core.architecture import CONFIG_NAME, Architecture, empty_model
from esm_core.checkpoints import (
    TensorInfo,
    VisionCheckpoint,
    open_checkpoint,
    text_checkpoint,
    write_safetensors,
)
from esm_core.layer_merges import open_towers, read_update, update_norms
from esm_core.methods import average
from esm_core.methods.esm import layer_scales
from esm_core.plan import Plan
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import Towers, Updates, open_tower

WEIGHTS_NAME = "open_clip_model.safetensors"

_PIECE = 2**15
"""Values of a weight in float64 at once: few enough to stay in a core's cache."""

_PLACEHOLDER_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}


def publishable_config(architecture: Architecture, has_text: bool) -> dict[str, Any]:
    """The ``open_clip_config.json`` of the merged model.

    open_clip loads full models only, so a base without text tower is published with a tiny one whose
    weights are zero: its text features are zero, and nobody can take them for trained ones.
    """
    model_cfg = dict(architecture.model_cfg)
    if not has_text:
        model_cfg["text_cfg"] = dict(_PLACEHOLDER_TEXT)
        model_cfg.pop("custom_text", None)
    return {"model_cfg": model_cfg, "preprocess_cfg": architecture.preprocess_cfg}


def finish(plan: Plan) -> Location:
    """Write the merged checkpoint; at once where it is already there.

    ``W = W0 + α β_l M_l`` for essential weights, ``W0 + β_l M_l`` for TSV-M weights and ``W0 +`` the mean
    update for the rest (arXiv 2602.20208), in the base's dtypes. Holds one weight at a time.

    Returns
    -------
    Location
        The folder; its marker holds β, sizes and the sha256 of each file.

    Raises
    ------
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = plan.static_folder
    if is_complete(folder):
        return folder
    assert plan.alpha is not None
    alpha = plan.alpha.value
    scales = layer_scales(update_norms(plan), plan.recipe.method)
    config = publishable_config(plan.architecture, plan.has_text)
    published = plan.architecture.model_copy(update={"model_cfg": config["model_cfg"]})
    infos = {
        name: TensorInfo(tuple(tensor.shape), tensor.dtype)
        for name, tensor in empty_model(published).state_dict().items()
    }
    with unchanged(plan, base_file=True):
        text = text_checkpoint(open_checkpoint(Location.parse(plan.base.url)))
        towers = open_towers(plan)
        base = towers.base
        tensors = infos | dict(text.tensors) | dict(base.tensors)

        def read(name: str) -> Tensor:
            if name in base.tensors:
                return merged_weight(plan, towers, name, scales, alpha, base.tensors[name].dtype)
            if name in text.tensors:
                kept: Tensor = text.read(name)
                return kept
            return torch.zeros(tensors[name].shape, dtype=tensors[name].dtype)

        size, sha256 = write_safetensors(folder / WEIGHTS_NAME, dict(sorted(tensors.items())), read, None)
    content = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    (folder / CONFIG_NAME).write_bytes(content)
    write_marker(folder, {"sha256": sha256, "bytes": size, "layer_scales": scales})
    return folder


def merged_weight(
    plan: Plan, towers: Towers, weight: str, scales: Mapping[str, float], alpha: float, dtype: torch.dtype
) -> Tensor:
    """One weight of the merged tower at ``alpha``, made in float64 and rounded once, to ``dtype``."""
    base = towers.base.read(weight)
    rule = plan.rules[weight]
    if rule == "mean":
        return (base.to(torch.float64) + average.merge_weight(Updates(towers, weight))).to(dtype)
    coefficient = (alpha if rule == "essential" else 1.0) * scales[weight]
    merged, update = torch.empty(base.shape, dtype=dtype), read_update(plan, weight)
    pieces = (torch.split(tensor.reshape(-1), _PIECE) for tensor in (merged, base, update))
    for into, start, change in zip(*pieces, strict=True):
        into.copy_(change.to(torch.float64).mul_(coefficient).add_(start))
    return merged


def static_tower(plan: Plan) -> VisionCheckpoint:
    """The vision tower of the merged checkpoint, headers read."""
    return open_tower(plan.static_folder / WEIGHTS_NAME)


def static_facts(plan: Plan) -> dict[str, Any]:
    """What the marker of the merged checkpoint says: ``sha256``, ``bytes``, ``layer_scales``."""
    return read_marker(plan.static_folder)
