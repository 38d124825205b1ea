"""How the merging coefficient α is searched: which values are tried, and which of them is taken."""

import math
from collections.abc import Iterable, Mapping
from statistics import median_low

from pydantic import BaseModel, ConfigDict

from esm_core.alpha.golden_section import next_point
from esm_core.recipe import MAX_ALPHA

TOLERANCE = 0.05


class ChosenAlpha(BaseModel):
    """The merging coefficient of a merge and how it came about.

    Attributes
    ----------
    value : float
    method : str
        ``fixed``, or the search that the recipe names.
    curve : list of (α, score)
        What the search evaluated, sorted by α; empty where α is fixed.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    method: str
    curve: list[tuple[float, float]] = []


def next_alpha(curve: Mapping[float, float]) -> float | None:
    """The α to evaluate next, given the scores so far; ``None`` once the search has ended."""
    return next_point(curve, 0.0, MAX_ALPHA, TOLERANCE)


def search_length() -> int:
    """How many values a search evaluates."""
    curve: dict[float, float] = {}
    while (alpha := next_alpha(curve)) is not None:
        curve[alpha] = 0.0
    return len(curve)


def mean_score(scores: Iterable[float]) -> float:
    """The mean over tasks, rounded to 12 decimals: the same whatever the order, and ties stay ties."""
    values = list(scores)
    return round(math.fsum(values) / len(values), 12)


def choose(method: str, curve: Mapping[float, float]) -> ChosenAlpha:
    """The α with the best score; of several equally good ones the middle one.

    Accuracy over few images is a step function, and the middle of a step is farthest from its edges.
    """
    best = max(curve.values())
    value = median_low(alpha for alpha, score in curve.items() if score == best)
    return ChosenAlpha(value=value, method=method, curve=sorted(curve.items()))
