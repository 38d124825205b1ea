"""The router stage: fit routers on the proxies' tokens in the static model, take the best."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esm_core.architecture import build_tower, preprocess
from esm_core.collected import inputs_folder
from esm_core.errors import IntegrityError
from esm_core.experts import Experts, RoutingConfig
from esm_core.experts.places import expert_settings, expert_weights, router_folder
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.plan import Plan
from esm_core.routing.routers import PER_IMAGE
from esm_core.routing.routers.statistics import TokenStatistics, total
from esm_core.routing.tower import RoutedTower
from esm_core.shifts import read_mean
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.static import static_tower
from esm_core.storage import Location
from esm_core.unchanged import RoutingProxies
from esm_core.weights import read_tower

FOLDS = 4
ROUTER_NAME = "router.safetensors"

Tensors = dict[str, Tensor]


def fit_router(plan: Plan) -> Location:
    """Fit the router the recipe asks for; at once where it is already there.

    ``auto`` takes the router that sends most held-out proxies to their own task's expert: every image is
    held out once (four parts), and its task is known, so no label is used. The marker holds the share of
    each router, averaged over tasks, and its confusion: task → expert → images.

    Raises
    ------
    InputError
        A proxy image that cannot be read, or proxies that changed since they were inspected.
    IntegrityError
        Stored prototypes are damaged or missing.
    """
    folder = router_folder(plan)
    if is_complete(folder):
        return folder
    choice = expert_settings(plan).router
    if choice == "cosine":
        tensors, facts = _prototypes(plan), {"router": choice, "scope": "layer", "held_out": {}}
    else:
        candidates = list(PER_IMAGE) if choice == "auto" else [choice]
        proxies = _Proxies(plan)
        parts = [proxies.statistics(task.name) for task in plan.tasks]
        held_out = _held_out(proxies, parts, candidates)
        proxies.read.check()
        # The first of equals: candidates are listed from the simplest on.
        best = max(candidates, key=lambda name: held_out[name]["accuracy"])
        fitted = PER_IMAGE[best].fit([total(own) for own in parts])
        tensors = {f"/{name}": tensor for name, tensor in fitted.items()}
        facts = {"router": best, "scope": "image", "held_out": held_out}
    content = {name: tensor.cpu().float().contiguous() for name, tensor in sorted(tensors.items())}
    (folder / ROUTER_NAME).write_bytes(save(content))
    write_marker(folder, facts)
    return folder


def router_facts(plan: Plan) -> dict[str, Any]:
    """What the marker says: ``router``, ``scope`` and ``held_out``."""
    return read_marker(router_folder(plan))


def _prototypes(plan: Plan) -> Tensors:
    means: Tensors = {}
    for weight in expert_weights(plan):
        own = [read_mean(inputs_folder(plan, task.name, weight), weight) for task in plan.tasks]
        means[f"{weight}/prototypes"] = torch.stack(own)
    return means


def _held_out(
    proxies: "_Proxies", parts: Sequence[Sequence[TokenStatistics]], candidates: Sequence[str]
) -> dict[str, dict[str, Any]]:
    count = len(parts)
    tables = {name: torch.zeros(count, count, dtype=torch.int64) for name in candidates}
    for fold in range(FOLDS):
        rest = [total(part for number, part in enumerate(own) if number != fold) for own in parts]
        routers = {
            name: PER_IMAGE[name].load(PER_IMAGE[name].fit(rest)).to(proxies.device) for name in candidates
        }
        for row, task in enumerate(proxies.names):
            for tokens in proxies.tokens(task, fold):
                for name, router in routers.items():
                    chosen = router(tokens.float()).argmax(dim=1).cpu()
                    tables[name][row] += torch.bincount(chosen, minlength=count)
    shares = {name: table.diagonal() / table.sum(dim=1) for name, table in tables.items()}
    return {
        name: {"accuracy": float(shares[name].mean()), "confusion": _by_name(proxies.names, table)}
        for name, table in tables.items()
    }


def _by_name(names: Sequence[str], table: Tensor) -> dict[str, dict[str, int]]:
    return {task: dict(zip(names, row.tolist(), strict=True)) for task, row in zip(names, table, strict=True)}


class _Proxies:
    """The routing proxies of a plan, as tokens of the static model."""

    def __init__(self, plan: Plan) -> None:
        static = static_tower(plan)
        self._plan, self.device = plan, plan.recipe.evaluate.device
        self.read = RoutingProxies(plan)
        self.names = [task.name for task in plan.tasks]
        tower = build_tower(plan.architecture, read_tower(static, static), self.device, torch.float32)
        self._tower = RoutedTower(tower, _no_experts(self.names))

    def statistics(self, task: str) -> list[TokenStatistics]:
        """The statistics of a task's images, part by part."""
        return [
            total(TokenStatistics.of(tokens) for tokens in self.tokens(task, fold))
            for fold in range(min(FOLDS, len(self._ids(task))))
        ]

    def tokens(self, task: str, fold: int) -> Iterator[Tensor]:
        """``[b, L, d]`` float32 batches of the images of one part; none where there is no such part."""
        ids = self._ids(task)
        parts = min(FOLDS, len(ids))
        if fold >= parts:
            return
        source = open_images(Location.parse(self._plan.task(task).spec.proxy))
        prepare, size = preprocess(self._plan.architecture), self._plan.recipe.evaluate.batch_size
        samples = self.read.watch(task, source.read(ids[fold::parts]))
        with torch.inference_mode():
            for images, _ in image_batches(samples, source.location, prepare, size):
                yield self._tower.tokens(images.to(self.device))

    def _ids(self, task: str) -> list[str]:
        return self._plan.task(task).facts.routing_proxies


def _no_experts(tasks: Sequence[str]) -> Experts:
    config = RoutingConfig(
        tasks=tuple(tasks),
        layers=(),
        rank=0,
        extras=False,
        router="token_gaussian",
        scope="image",
        left_static=(),
    )
    return Experts(config, {}, {}, {})


def read_router(plan: Plan) -> dict[str, Tensor]:
    """The fitted router's tensors, by the names they have in an artifact.

    Raises
    ------
    IntegrityError
        The file is damaged.
    """
    location = router_folder(plan) / ROUTER_NAME
    try:
        return load(location.read_bytes())
    except SafetensorError as error:
        raise IntegrityError(f"{location}: is damaged. Delete {location.parent} and run again.") from error
