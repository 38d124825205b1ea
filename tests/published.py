"""A published version with experts, made by hand: three tasks on a tiny tower."""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save
from torch import Tensor
from world import TEXT, VISION

from esm_core.artifacts import Version, bytes_writer, publish_version
from esm_core.experts import RoutingConfig, small_parameters
from esm_core.storage import Location
from esm_core.store import prepare_store

TASKS = ("cats", "dogs", "maps")
LAYERS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
RANK, SMALL_RANK = 4, 2


def published_experts(root: Path, kept: str = "", **vision: Any) -> Version:
    """Publish ``pets`` in ``root/store``: a tiny open_clip model, changed by ``vision``, and experts.

    ``kept`` is found in the names of the parameters that experts change, a regular expression.
    """
    model_cfg = {"embed_dim": 16, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"size": 16}}
    static = _static(model_cfg)
    tower = {name: tensor for name, tensor in static.items() if name.startswith("visual.")}
    every = _experts(tower).items()
    experts = {key: tensor for key, tensor in every if key.startswith("router") or re.search(kept, key)}
    routing = RoutingConfig(
        tasks=TASKS,
        layers=LAYERS,
        rank=RANK,
        extras=True,
        router="token_gaussian",
        scope="image",
        left_static=(),
    )
    return publish(
        root,
        {
            "model/open_clip_config.json": json.dumps(config).encode(),
            "model/open_clip_model.safetensors": save(static),
            "experts/experts.safetensors": save(experts),
            "experts/routing.json": routing.model_dump_json().encode(),
        },
    )


def publish(root: Path, files: dict[str, bytes]) -> Version:
    """Publish ``files`` as the next version of ``pets``."""
    store = Location.parse(str(root / "store"))
    prepare_store(store)
    return publish_version(store, "pets", {path: bytes_writer(data) for path, data in files.items()}, {})


def _static(model_cfg: dict[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in open_clip.CLIP(**model_cfg).state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.5)
        for name, shape in shapes.items()
    }


def _experts(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return 0.2 * torch.randn(len(TASKS), *shape, generator=generator)

    tensors = {}
    for name, weight in tower.items():
        if name.endswith(LAYERS):
            d_out, d_in, rank = *weight.shape, RANK
        elif name == "visual.conv1.weight":
            d_out, d_in, rank = len(weight), weight[0].numel(), SMALL_RANK
        elif name == "visual.proj":
            d_in, d_out, rank = *weight.shape, SMALL_RANK
        else:
            continue
        tensors |= {f"low_rank/{name}/A": random(rank, d_in), f"low_rank/{name}/B": random(d_out, rank)}
        # The first task's experts have one direction less.
        tensors[f"low_rank/{name}/A"][0, -1] = 0
        tensors[f"low_rank/{name}/B"][0, :, -1] = 0
    width = len(tower["visual.class_embedding"])
    return {
        **tensors,
        **{f"delta/{name}": random(*tower[name].shape) for name in small_parameters(tower)},
        "router//precision": torch.eye(width).expand(len(TASKS), -1, -1).contiguous(),
        "router//offset": torch.zeros(len(TASKS)),
    }
