"""Routed towers made by hand: a tiny open_clip tower, experts of three tasks, a router for their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from world import TEXT, VISION, random_tower

from esm_core.architecture import Architecture, build_tower, tower_shapes
from esm_core.experts import Experts, RoutingConfig, dense_weights, linear_map, small_parameters
from esm_core.layers import LAYER_KINDS, SMALL_MATRICES, layer_kind
from esm_core.routing import RoutedTower
from esm_core.routing.routers import PER_IMAGE
from esm_core.routing.routers.statistics import TokenStatistics

TASKS = ("cats", "dogs", "maps")
PUBLISHED_LAYERS = ("attn.in_proj", "mlp.c_fc")
RANK = 3


def images_of(task: int, count: int, seed: int = 0, size: tuple[int, int] = (16, 16)) -> Tensor:
    """Noise that a router can tell apart: every task has a brightness and a contrast of its own."""
    generator = torch.Generator().manual_seed(1000 * seed + task)
    return (0.4 + 0.6 * task) * torch.randn(count, 3, *size, generator=generator) + (task - 1)


def mixed_images(count: int = 4, seed: int = 1, size: tuple[int, int] = (16, 16)) -> tuple[Tensor, list[int]]:
    """``count`` images of every task in turn, and each image's task."""
    stacked = torch.stack([images_of(task, count, seed, size) for task in range(len(TASKS))], dim=1)
    return stacked.flatten(0, 1), [task for _ in range(count) for task in range(len(TASKS))]


@dataclass(frozen=True)
class Parts:
    """What a routed tower is made of."""

    architecture: Architecture
    weights: dict[str, Tensor]
    experts: Experts

    def static(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
        return build_tower(self.architecture, self.weights, device, dtype)

    def routed(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> RoutedTower:
        return RoutedTower(self.static(dtype, device), self.experts)

    def dense(self, task: str, dtype: torch.dtype = torch.float32) -> Any:
        """A plain open_clip tower that holds one task's expert."""
        return build_tower(self.architecture, dense_weights(self.experts, self.weights, task), "cpu", dtype)

    @torch.no_grad()
    def dense_features(
        self, images: Tensor, tasks: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Every image alone, through the dense tower of its task."""
        towers = {task: self.dense(TASKS[task], dtype) for task in set(tasks)}
        found = [towers[task](image[None].to(dtype)) for image, task in zip(images, tasks, strict=True)]
        return torch.cat(found)


def architecture(quick_gelu: bool = False, **vision: Any) -> Architecture:
    config = {"embed_dim": 16, "vision_cfg": VISION | vision, "text_cfg": TEXT, "quick_gelu": quick_gelu}
    return Architecture(name="tiny", model_cfg=config, preprocess_cfg={})


def make_parts(
    layers: Sequence[str] = LAYER_KINDS,
    matrices: bool = True,
    small: bool = True,
    router: str = "token_gaussian",
    size: float = 0.2,
    **vision: Any,
) -> Parts:
    """Random weights and experts.

    ``matrices``: experts for conv1 and proj; ``small``: for norms, biases and embeddings; ``size``: of all.
    """
    own = architecture(**vision)
    weights = random_tower(tower_shapes(own), seed=0)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return size * torch.randn(len(TASKS), *shape, generator=generator)

    chosen = [w for w in weights if layer_kind(w) in layers or (matrices and w in SMALL_MATRICES)]
    low_rank = {}
    for weight in chosen:
        d_out, d_in = linear_map(weight, weights[weight]).shape
        low_rank[weight] = (random(RANK, d_in), random(d_out, RANK))
    deltas = {name: random(*weights[name].shape) for name in (small_parameters(weights) if small else [])}
    config = RoutingConfig(
        tasks=TASKS,
        layers=tuple(layers),
        rank=RANK,
        extras=matrices or small,
        router=router,
        scope="layer" if router == "cosine" else "image",
        left_static=(),
    )
    fitted: Mapping[str, Mapping[str, Tensor]]
    if router == "cosine":
        fitted = {weight: {"prototypes": random(pair[0].shape[2])} for weight, pair in low_rank.items()}
    else:
        fitted = {"": fit(build_tower(own, weights, "cpu", torch.float32), config)}
    return Parts(own, weights, Experts(config, low_rank, deltas, fitted))


def fit(static: nn.Module, config: RoutingConfig) -> dict[str, Tensor]:
    """A router fitted on 24 images of every task."""
    plain = RoutedTower(static, Experts(config, {}, {}, {}))
    with torch.no_grad():
        tokens = [
            plain.tokens(images_of(task, 24, size=plain.image_size)) for task in range(len(config.tasks))
        ]
    return PER_IMAGE[config.router].fit([TokenStatistics.of(own) for own in tokens])


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row."""
    error = (found.double() - expected.double()).flatten(1).norm(dim=1)
    return float((error / expected.double().flatten(1).norm(dim=1)).max())
