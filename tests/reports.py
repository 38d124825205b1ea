"""Manifests and analyses as a merge makes them, without one: any number of tasks and blocks."""

import copy
from collections.abc import Sequence
from typing import Any

from esm_core.artifacts import Manifest
from esm_core.layers import layer_kind
from esm_core.report.analysis import Analysis
from esm_core.report.curves import curve_ranks

TASKS = ("cats", "dogs", "maps")

_SHAPES = {
    "attn.in_proj_weight": (96, 32),
    "attn.out_proj.weight": (32, 32),
    "mlp.c_fc.weight": (128, 32),
    "mlp.c_proj.weight": (32, 128),
}


def weights(blocks: int) -> dict[str, tuple[int, int]]:
    """Weight → shape of a transformer with this many blocks."""
    return {
        f"visual.transformer.resblocks.{block}.{suffix}": shape
        for block in range(blocks)
        for suffix, shape in _SHAPES.items()
    }


def analysis(tasks: Sequence[str] = TASKS, blocks: int = 2) -> Analysis:
    """Overlaps of tasks i and j are 0.1 + 0.01 (i + j), more in later blocks; curves differ by task."""
    layers: dict[str, dict[str, Any]] = {}
    for number, (weight, shape) in enumerate(weights(blocks).items()):
        ranks, block = curve_ranks(min(shape)), number // len(_SHAPES)
        curves = [[round(1 - (1 - r / ranks[-1]) ** (3 + i), 4) for r in ranks] for i in range(len(tasks))]
        layers[weight] = {
            "kind": layer_kind(weight),
            "block": block,
            "rule": "tsv_m",
            "shape": shape,
            "norm": 1 + number / 8,
            "scale": 0.5 + number / 8,
            "curve_ranks": ranks,
            "singular": curves if block in (0, blocks - 1) else None,
        }
        if "out_proj" not in weight:
            layers[weight] |= {
                "rule": "essential",
                "ranks": [max(shape[0] // len(tasks), 1)] * len(tasks),
                "task_norms": [0.25 * (i + 1) for i in range(len(tasks))],
                "overlaps": [[_overlap(i, j, block) for j in range(len(tasks))] for i in range(len(tasks))],
                "essential": curves,
            }
    return Analysis.model_validate({"tasks": list(tasks), "layers": layers})


def manifest(tasks: Sequence[str] = TASKS, blocks: int = 2, **changed: Any) -> Manifest:
    """Of version 2: with accuracies, experts with a router per image, a searched α; ``changed`` keys."""
    counts = {t: {u: 90 if t == u else 10 // max(len(tasks) - 1, 1) for u in tasks} for t in tasks}
    methods = ("base", "experts", "average", "tsv_m", "esm", "esm_pp_route", "esm_pp_oracle")
    content = {
        "format": 1,
        "name": "pets",
        "version": 2,
        "parent": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "identity": "a" * 64,
        "alpha": 1.5,
        "alpha_search": {"method": "label_free", "curve": [[1.0, 0.5], [1.5, 0.7], [2.0, 0.6]]},
        "layer_scales": {w: layer.scale for w, layer in analysis(tasks, blocks).layers.items()},
        "architecture": {"name": "ViT-B-32", "activation": "gelu", "text_tower": "from the base"},
        "recipe": {"name": "pets", "store": "s3://models/store", "tasks": [], "seed": 0, "compare": []},
        "inputs": {
            "base": {"checkpoint": _checkpoint("base", "b")},
            "tasks": {task: _inputs(task) for task in tasks},
        },
        "metrics": {
            "accuracy": {m: dict.fromkeys(tasks, (k + 1) / 8) for k, m in enumerate(methods)},
            "routing": {"image": counts},
            "routing_accuracy": dict.fromkeys(tasks, 0.9),
        },
        "experts": {
            "settings": {"rank": 16},
            "bytes": 1000,
            "router": "token_moments",
            "scope": "image",
            "held_out": {"token_moments": {"accuracy": 0.95, "confusion": counts}},
            "kept_energy": {weight: dict.fromkeys(tasks, 0.9) for weight in weights(blocks)},
        },
        "run": {
            "stages": [{"name": "merging", "seconds": 12.5, "parts": 8, "reused": 3, "bytes": 4 * 10**6}]
        },
        "libraries": {"torch": "2.9.0"},
        "files": {"model/open_clip_model.safetensors": {"bytes": 5 * 10**6, "sha256": "d" * 64}},
    }
    return copy.deepcopy({**content, **changed})


def _overlap(i: int, j: int, block: int) -> float:
    return 1.0 if i == j else round(min(0.1 + 0.01 * (i + j) + 0.001 * block, 1.0), 4)


def _checkpoint(name: str, digit: str) -> dict[str, Any]:
    return {
        "url": f"s3://models/{name}.safetensors",
        "sha256": digit * 64,
        "tensors_sha256": "e" * 64,
        "layout": "open_clip (visual.*)",
        "bytes": 10**6,
    }


def _inputs(task: str) -> dict[str, Any]:
    return {
        "checkpoint": _checkpoint(task, "c"),
        "proxies": {"url": f"s3://images/{task}", "samples": ["1", "2"], "sha256": "1" * 64, "shifts": "s"},
        "test": {"url": f"s3://test/{task}", "count": 600, "sha256": "2" * 64},
        "validation": None,
    }
