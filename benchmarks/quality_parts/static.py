"""Variants that give one tower for all tasks: ESM in its forms, the baselines, base and fine-tunes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.quality_parts.lines import Line, by_validation, label_free, on_grid
from benchmarks.quality_parts.problem import Problem
from benchmarks.quality_parts.proxies import DEFAULT_PROXIES, Proxies
from benchmarks.quality_parts.variant import Figures
from esm_core.alpha.choice import ChosenAlpha
from esm_core.factor import InputFactor
from esm_core.merge import merge_updates, merges_essentially
from esm_core.methods import BASELINES
from esm_core.settings import MergeSettings

PUBLISHED = MergeSettings()


@dataclass(frozen=True)
class Base:
    """The pre-trained base, as it is."""

    name: str = "base"

    def measure(self, problem: Problem) -> dict[str, Figures]:
        return {self.name: Figures(problem.accuracy(problem.tower(problem.base), "test"))}


@dataclass(frozen=True)
class FineTunes:
    """Every task by its own fine-tune: what normalised accuracy is relative to."""

    name: str = "experts"

    def measure(self, problem: Problem) -> dict[str, Figures]:
        own = {
            name: problem.accuracy_on(problem.tower(problem.tuned[name]), name, "test")
            for name in problem.names
        }
        return {self.name: Figures(own)}


@dataclass(frozen=True)
class Baseline:
    """A baseline of the product at its default coefficient, and tuned on validation data over ``grid``.

    Columns ``name`` and, with a grid, ``name_tuned``.
    """

    name: str
    grid: tuple[float, ...] = ()

    def measure(self, problem: Problem) -> dict[str, Figures]:
        method = BASELINES[self.name]
        line = Line(problem.base, {key: method.merge_weight(_of(problem, key)) for key in problem.base})
        found = {self.name: at(problem, line, ChosenAlpha(value=method.coefficient, method="default"))}
        if self.grid:
            found[f"{self.name}_tuned"] = at(problem, line, on_grid(problem, line, self.grid))
        return found


Search = Literal["label_free", "validation", "released"]

RELEASED = 2.0
"""The released code's coefficient."""


@dataclass(frozen=True)
class Esm:
    """Essential Subspace Merging with some settings.

    Column ``name`` for the first of ``searches``, ``name_<search>`` for the others.

    Attributes
    ----------
    basis : str
        ``esd``, or ``svd``: singular vectors of the updates instead of essential directions.
    """

    name: str
    settings: MergeSettings = PUBLISHED
    proxies: Proxies = DEFAULT_PROXIES
    basis: Literal["esd", "svd"] = "esd"
    searches: tuple[Search, ...] = ("label_free", "validation")

    def measure(self, problem: Problem) -> dict[str, Figures]:
        line = esm_line(problem, self.settings, self.proxies, self.basis)
        first = self.searches[0]
        return {
            self.name if search == first else f"{self.name}_{search}": at(
                problem, line, _chosen(problem, line, search, self.proxies)
            )
            for search in self.searches
        }


@dataclass(frozen=True)
class Merged:
    """Any other way to merge: ``line`` makes the merged towers, ``choose`` the coefficient. One column."""

    name: str
    line: Callable[[Problem], Line]
    choose: Callable[[Problem, Line], ChosenAlpha] = label_free

    def measure(self, problem: Problem) -> dict[str, Figures]:
        line = self.line(problem)
        return {self.name: at(problem, line, self.choose(problem, line))}


def esm_line(
    problem: Problem,
    settings: MergeSettings = PUBLISHED,
    proxies: Proxies = DEFAULT_PROXIES,
    basis: Literal["esd", "svd"] = "esd",
) -> Line:
    """The product's merge of every α, as :mod:`esm_core.alpha.line` writes it."""
    inputs = problem.inputs(proxies)
    if basis == "svd":
        inputs = {
            name: {key: isotropic(own) for key, own in layers.items()} for name, layers in inputs.items()
        }
    merged = merge_updates(problem.updates, inputs, settings)
    direction = {key: update for key, update in merged.items() if merges_essentially(key)}
    rest = {key: update for key, update in merged.items() if key not in direction}
    origin = {key: tensor.double() + rest.get(key, 0) for key, tensor in problem.base.items()}
    return Line(origin, direction)


def isotropic(inputs: InputFactor) -> InputFactor:
    """Inputs of the same number that prefer no direction: with them ESD is the SVD of the update."""
    return inputs._replace(factor=torch.eye(inputs.factor.shape[1], dtype=torch.float64))


def released(problem: Problem, line: Line) -> ChosenAlpha:
    """The released code's coefficient, whatever is merged."""
    return ChosenAlpha(value=RELEASED, method="released")


def at(problem: Problem, line: Line, chosen: ChosenAlpha) -> Figures:
    """What the tower at a chosen coefficient gets right."""
    tower = problem.tower(line.at(chosen.value))
    facts: dict[str, Any] = {"coefficient": chosen.value, "chosen": chosen.method, "curve": chosen.curve}
    return Figures(problem.accuracy(tower, "test"), problem.accuracy(tower, "validation"), facts)


def _chosen(problem: Problem, line: Line, search: Search, proxies: Proxies) -> ChosenAlpha:
    if search == "released":
        return released(problem, line)
    return by_validation(problem, line) if search == "validation" else label_free(problem, line, proxies)


def _of(problem: Problem, weight: str) -> list[Tensor]:
    return [problem.updates[name][weight] for name in problem.names]
