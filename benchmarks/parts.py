"""What is measured: a ViT-B/32 tower of random weights, images of several kinds, experts, routers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.architecture import build_tower, load_architecture, tower_shapes
from esm_core.experts import Experts, RoutingConfig, linear_map, small_parameters
from esm_core.experts.check import expert_bytes, expert_weights_of
from esm_core.layers import LAYER_KINDS, LayerKind
from esm_core.routing import RoutedTower
from esm_core.routing.routers.statistics import TokenStatistics
from esm_core.routing.routers.token_moments import TokenMoments
from esm_core.settings import ExpertSettings
from esm_core.storage import Location

PUBLISHED: tuple[LayerKind, ...] = ("attn.in_proj", "mlp.c_fc")
LAYERS: dict[str, tuple[tuple[LayerKind, ...], bool]] = {
    "published": (PUBLISHED, False),
    "four": (LAYER_KINDS, False),
    "four+extras": (LAYER_KINDS, True),
}
"""Name in the results → layer kinds with experts, and whether extras have them too."""

FIT_IMAGES = 8
"""Images per task a router is fitted on; its size is that of a router fitted on the default number."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tower:
    """The static tower and its weights by their ``visual.`` names."""

    module: nn.Module
    weights: Tensors


@cache
def static_tower() -> Tower:
    """open_clip's ViT-B-32 vision tower, float32, of seeded random weights."""
    architecture = load_architecture("ViT-B-32", Location.parse("."))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in tower_shapes(architecture).items():
        if len(shape) > 1:
            weights[name] = (
                torch.randn(shape, generator=generator)
                * linear_map(name, torch.empty(shape)).shape[1] ** -0.5
            )
        else:
            norm = ".ln_" in name and name.endswith(".weight")
            weights[name] = 0.1 * torch.randn(shape, generator=generator) + float(norm)
    return Tower(build_tower(architecture, weights, "cpu", torch.float32).eval(), weights)


def make_images(kinds: Tensor, seed: int) -> Tensor:
    """``[B, 3, 224, 224]`` noise; each image's kind ``[B]`` sets its colours, contrast and grain.

    Kinds stand for tasks: a router fitted on them sends the images of a batch to different experts, as
    a mixed batch does. One expert for all would stay in the cache.
    """
    images = []
    generator = torch.Generator().manual_seed(seed)
    for kind in kinds.tolist():
        own = torch.Generator().manual_seed(kind)
        colour = torch.randn(3, 1, 1, generator=own)
        contrast = 0.5 + torch.rand(3, 1, 1, generator=own)
        side = 7 * 2 ** (kind % 5)
        noise = torch.randn(1, 3, side, side, generator=generator)
        images.append(colour + contrast * functional.interpolate(noise, size=224, mode="nearest")[0])
    return torch.stack(images)


def expert_settings(layers: str, rank: int) -> ExpertSettings:
    """The settings a recipe would have."""
    kinds, extras = LAYERS[layers]
    return ExpertSettings(layers=kinds, rank=rank, extras=extras)


def make_experts(layers: str, tasks: int, rank: int, router: str, tensors: Mapping[str, Tensors]) -> Experts:
    """Random experts on the static tower, with the router's tensors by scorer."""
    weights = static_tower().weights
    settings = expert_settings(layers, rank)
    generator = torch.Generator().manual_seed(1)
    low_rank = {}
    for name in expert_weights_of(settings, weights):
        d_out, d_in = linear_map(name, weights[name]).shape
        down = torch.randn(tasks, rank, d_in, generator=generator) * d_in**-0.5
        low_rank[name] = (down, 0.3 * torch.randn(tasks, d_out, rank, generator=generator) * rank**-0.5)
    small = small_parameters(weights) if settings.extras else []
    deltas = {name: 0.02 * torch.randn(tasks, *weights[name].shape, generator=generator) for name in small}
    config = RoutingConfig(
        tasks=tuple(f"task{number}" for number in range(tasks)),
        layers=settings.layers,
        rank=rank,
        extras=settings.extras,
        router=router,
        scope="layer" if router == "cosine" else "image",
        left_static=(),
    )
    return Experts(config, low_rank, deltas, tensors)


def stored_bytes(experts: Experts) -> int:
    """Bytes of the experts' tensors, the router's not counted."""
    pairs = [tensor for pair in experts.low_rank.values() for tensor in pair]
    return sum(tensor.nbytes for tensor in [*pairs, *experts.deltas.values()])


def predicted_bytes(layers: str, tasks: int, rank: int) -> int:
    """What ``esmerge plan`` says of the same experts."""
    shapes = {name: tuple(tensor.shape) for name, tensor in static_tower().weights.items()}
    return expert_bytes(expert_settings(layers, rank), shapes, tasks)


def bank_bytes(tower: RoutedTower) -> int:
    """Bytes of all that a routed tower holds beside the static weights, its router included."""
    return sum(buffer.nbytes for name, buffer in tower.named_buffers() if not name.startswith("static."))


@cache
def token_moments(tasks: int) -> dict[str, Tensors]:
    """The router of ``tasks`` kinds of images: fitted on few, as large as one fitted on many."""
    tower = RoutedTower(static_tower().module, make_experts("published", 1, 1, "token_moments", {}))
    statistics = []
    with torch.inference_mode():
        for kind in range(tasks):
            images = make_images(torch.full((FIT_IMAGES,), kind), seed=1000 + kind)
            statistics.append(TokenStatistics.of(tower.tokens(images)))
    fitted = TokenMoments.fit(statistics)
    # As ``fit`` itself pads a task that has fewer proxies than another.
    missing = ExpertSettings().proxies - fitted["own"].shape[1]
    fitted["own"] = functional.pad(fitted["own"], (0, 0, 0, missing))
    return {"": fitted}


@cache
def prototypes(tasks: int) -> dict[str, Tensors]:
    """The cosine router's of every published layer: its mean input for one image of each kind."""
    means: dict[str, Tensors] = {}
    handles = []
    tower = static_tower().module
    for name, norm in tower.named_modules():
        block, _, part = name.rpartition(".")
        if block.startswith("transformer.") and part in ("ln_1", "ln_2"):
            weight = f"visual.{block}." + {"ln_1": "attn.in_proj_weight", "ln_2": "mlp.c_fc.weight"}[part]

            def keep(_module: nn.Module, _inputs: object, output: Tensor, weight: str = weight) -> None:
                means[weight] = {"prototypes": output.mean(dim=1)}

            handles.append(norm.register_forward_hook(keep))
    with torch.inference_mode():
        tower(make_images(torch.arange(tasks), seed=1))
    for handle in handles:
        handle.remove()
    return means
