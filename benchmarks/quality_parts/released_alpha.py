"""The published settings at the released code's α: what a search without labels has to beat."""

from dataclasses import dataclass

from benchmarks.quality_parts.problem import Problem
from benchmarks.quality_parts.static import RELEASED, at, esm_line
from benchmarks.quality_parts.variant import Figures
from esm_core.alpha.choice import ChosenAlpha


@dataclass(frozen=True)
class ReleasedAlpha:
    """One column, beside those of the candidates: no image chooses anything."""

    name: str = "candidate_released_alpha"

    def measure(self, problem: Problem) -> dict[str, Figures]:
        chosen = ChosenAlpha(value=RELEASED, method="released")
        return {self.name: at(problem, esm_line(problem), chosen)}
