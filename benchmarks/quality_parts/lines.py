"""Merged towers of every coefficient, and how a coefficient is chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.quality_parts.problem import Accuracy, Problem, State
from benchmarks.quality_parts.proxies import DEFAULT_PROXIES, Proxies
from esm_core.alpha.choice import ChosenAlpha, choose, mean_score, next_alpha
from esm_core.alpha.scores import displacement_cosine


@dataclass(frozen=True)
class Line:
    """``W(c) = origin + c · direction``; weights without a direction are the same at every coefficient."""

    origin: Mapping[str, Tensor]
    direction: Mapping[str, Tensor]

    def at(self, coefficient: float) -> State:
        """The tower's tensors at a coefficient, float32."""
        return {
            name: (tensor.double() + coefficient * self.direction[name].double()).float()
            if name in self.direction
            else tensor.float()
            for name, tensor in self.origin.items()
        }


def mean_accuracy(accuracy: Accuracy) -> float:
    """Mean over tasks, as the product's search of α takes it."""
    return mean_score(accuracy.values())


def on_grid(problem: Problem, line: Line, grid: Sequence[float]) -> ChosenAlpha:
    """The coefficient of ``grid`` with the best mean validation accuracy."""
    return choose("grid", {value: _validation_score(problem, line, value) for value in grid})


def by_validation(problem: Problem, line: Line) -> ChosenAlpha:
    """As a recipe's ``alpha: validation``: golden-section search on [0, 4]."""
    return _search("validation", lambda value: _validation_score(problem, line, value))


def label_free(problem: Problem, line: Line, proxies: Proxies = DEFAULT_PROXIES) -> ChosenAlpha:
    """As a recipe's ``alpha: label_free``, the default: by features of the proxies alone."""
    images = {name: problem.proxy_images(name, proxies) for name in problem.names}
    base = problem.tower(problem.base)
    references = {
        name: (_features(base, own), _features(problem.tower(problem.tuned[name]), own))
        for name, own in images.items()
    }

    def score(value: float) -> float:
        tower = problem.tower(line.at(value))
        return mean_score(
            displacement_cosine(_features(tower, own), *references[name]) for name, own in images.items()
        )

    return _search("label_free", score)


def _search(method: str, score: Callable[[float], float]) -> ChosenAlpha:
    curve: dict[float, float] = {}
    while (value := next_alpha(curve)) is not None:
        curve[value] = score(value)
    return choose(method, curve)


def _validation_score(problem: Problem, line: Line, value: float) -> float:
    return mean_accuracy(problem.accuracy(problem.tower(line.at(value)), "validation"))


def _features(tower: torch.nn.Module, images: Tensor) -> Tensor:
    """L2-normalised features, float64."""
    with torch.inference_mode():
        return functional.normalize(tower(images).double(), dim=-1)
