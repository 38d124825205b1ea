"""Variants of ESM++: experts beside the merged tower, decomposed, routed and run by the library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.quality_parts.lines import label_free
from benchmarks.quality_parts.problem import Accuracy, Problem, State
from benchmarks.quality_parts.proxies import Proxies
from benchmarks.quality_parts.static import esm_line, isotropic
from benchmarks.quality_parts.variant import Figures
from esm_core.experts import Experts, RoutingConfig
from esm_core.experts.check import expert_weights_of
from esm_core.experts.decompose import decompose
from esm_core.experts.names import linear_map, small_parameters
from esm_core.routing import RoutedTower, oracle, record
from esm_core.routing.routers import PER_IMAGE
from esm_core.routing.routers.statistics import TokenStatistics, total
from esm_core.settings import ExpertSettings, RouterName

FOLDS = 4
"""Parts of the proxies that are held out in turn, as :mod:`esm_core.routing.stage_fit` does."""

DEFAULT_EXPERTS = ExpertSettings()


@dataclass(frozen=True)
class Routed:
    """ESM (α label-free) with experts. Columns ``name_route`` and ``name_oracle``.

    Attributes
    ----------
    basis : str
        Of the experts: ``esd``, or ``svd`` of the residuals.
    """

    name: str
    experts: ExpertSettings = DEFAULT_EXPERTS
    basis: Literal["esd", "svd"] = "esd"

    def measure(self, problem: Problem) -> dict[str, Figures]:
        static = problem.once("esm", lambda: _static(problem))
        tower = problem.tower(static)
        router, scorers, held_out = _router(problem, tower, self.experts)
        experts = make_experts(problem, static, self.experts, self.basis, router, scorers)
        routed = RoutedTower(tower, experts)
        right: Accuracy = {}
        table: dict[str, dict[str, list[int]]] = {}
        for name in problem.names:
            with record(routed) as found:
                right[name] = problem.accuracy_on(routed, name, "test")
            for layer, chosen in found.decisions.items():
                counts = chosen.bincount(minlength=len(problem.names)).tolist()
                table.setdefault(layer, {})[name] = counts
        given = {}
        for name in problem.names:
            with oracle(routed, name):
                given[name] = problem.accuracy_on(routed, name, "test")
        facts: dict[str, Any] = {
            "router": router,
            "held_out": held_out,
            "routing": table,
            "expert_bytes": _bytes(experts),
            "static_bytes": sum(tensor.nbytes for tensor in static.values()),
        }
        return {
            f"{self.name}_route": Figures(right, facts=facts),
            f"{self.name}_oracle": Figures(given, facts={"expert_bytes": facts["expert_bytes"]}),
        }


def _static(problem: Problem) -> State:
    line = esm_line(problem)
    return line.at(label_free(problem, line).value)


def make_experts(
    problem: Problem,
    static: State,
    settings: ExpertSettings,
    basis: Literal["esd", "svd"],
    router: RouterName,
    scorers: Mapping[str, State],
) -> Experts:
    """What an artifact would hold, float32."""
    low_rank = {}
    for weight in expert_weights_of(settings, problem.base):
        own = linear_map(weight, static[weight]).double()
        found = []
        for name in problem.names:
            inputs = problem.collected(name)[weight].inputs
            if basis == "svd":
                inputs = isotropic(inputs)
            residual = linear_map(weight, problem.tuned[name][weight]).double() - own
            found.append(decompose(residual, inputs, settings.rank))
        low_rank[weight] = (
            torch.stack([expert.down for expert in found]).float(),
            torch.stack([expert.up for expert in found]).float(),
        )
    small = small_parameters(problem.base) if settings.extras else []
    deltas = {
        key: torch.stack([problem.tuned[name][key].double() for name in problem.names]) - static[key].double()
        for key in small
    }
    config = _config(problem, router, settings)
    return Experts(config, low_rank, {key: delta.float() for key, delta in deltas.items()}, scorers)


def _config(problem: Problem, router: RouterName, settings: ExpertSettings | None) -> RoutingConfig:
    return RoutingConfig(
        tasks=tuple(problem.names),
        layers=settings.layers if settings else (),
        rank=settings.rank if settings else 0,
        extras=settings.extras if settings else False,
        router=router,
        scope="layer" if router == "cosine" else "image",
        left_static=(),
    )


def _router(
    problem: Problem, tower: nn.Module, settings: ExpertSettings
) -> tuple[RouterName, dict[str, State], dict[str, float]]:
    """The router, its tensors by scorer, and the share of held-out proxies each candidate gets right."""
    if settings.router == "cosine":
        return "cosine", _prototypes(problem, settings), {}
    candidates: tuple[RouterName, ...] = ("token_gaussian", "token_moments")
    if settings.router != "auto":
        candidates = (settings.router,)
    static = RoutedTower(tower, Experts(_config(problem, "token_gaussian", None), {}, {}, {}))
    with torch.inference_mode():
        tokens = [
            static.tokens(problem.proxy_images(name, Proxies(settings.proxies))) for name in problem.names
        ]
    parts = [[own[fold::FOLDS] for fold in range(FOLDS)] for own in tokens]
    statistics = [[TokenStatistics.of(part) for part in own] for own in parts]
    held_out: dict[str, float] = {name: _held_out(name, parts, statistics) for name in candidates}
    best = max(candidates, key=lambda name: held_out[name])
    return best, {"": PER_IMAGE[best].fit([total(own) for own in statistics])}, held_out


def _prototypes(problem: Problem, settings: ExpertSettings) -> dict[str, State]:
    def means(weight: str) -> Tensor:
        return torch.stack([problem.collected(name)[weight].mean for name in problem.names])

    return {w: {"prototypes": means(w).float()} for w in expert_weights_of(settings, problem.base)}


def _held_out(router: str, parts: list[list[Tensor]], statistics: list[list[TokenStatistics]]) -> float:
    """Mean over tasks of the share of proxies, each held out once, that are sent to their own task."""
    right = torch.zeros(len(parts))
    for fold in range(FOLDS):
        rest = [total(part for place, part in enumerate(own) if place != fold) for own in statistics]
        scorer = PER_IMAGE[router].load(PER_IMAGE[router].fit(rest))
        with torch.inference_mode():
            for task, own in enumerate(parts):
                right[task] += (scorer(own[fold].float()).argmax(dim=1) == task).sum()
    sizes = torch.tensor([sum(len(part) for part in own) for own in parts])
    return float((right / sizes).mean())


def _bytes(experts: Experts) -> int:
    """What is stored of experts and router, in bytes."""
    pairs = [tensor for pair in experts.low_rank.values() for tensor in pair]
    routers = [tensor for own in experts.router.values() for tensor in own.values()]
    return sum(tensor.nbytes for tensor in (*pairs, *experts.deltas.values(), *routers))
