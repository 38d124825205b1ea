"""Whether a ratio of the quick benchmark has fallen by more than a third; absolute times are never judged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).resolve().parents[1] / "baseline.json"

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "speedup_over_textbook": True,
    "shift_store_ratio": False,
    "incremental_ratio": False,
}
"""The ratios that are judged."""

_KEPT = 2 / 3


def read_baseline(path: Path = BASELINE) -> dict[str, float]:
    """The ratios that were reached."""
    ratios: dict[str, float] = json.loads(path.read_text())
    return ratios


def ratios_of(report: Mapping[str, Any]) -> dict[str, float]:
    """What of a report is judged, and belongs into the baseline."""
    return {name: round(float(report[name]), 4) for name in HIGHER_IS_BETTER}


def fallen(report: Mapping[str, Any], baseline: Mapping[str, float]) -> list[str]:
    """A message for every ratio that is worse than the baseline by more than a third."""
    problems = []
    for name, higher in HIGHER_IS_BETTER.items():
        was, now = baseline[name], float(report[name])
        limit = was * _KEPT if higher else was / _KEPT
        if now < limit if higher else now > limit:
            side, word = ("least", "slower") if higher else ("most", "worse")
            problems.append(
                f"{name}: was {was:.3g}, is {now:.3g}; it must be at {side} {limit:.3g}. Find the change "
                f"that made it {word} (git bisect with `python benchmarks/scale.py --quick --guard`), or, "
                "where it is meant, say why in benchmarks/RESULTS.md and put the new ratio into "
                f"benchmarks/{BASELINE.name}."
            )
    return problems
