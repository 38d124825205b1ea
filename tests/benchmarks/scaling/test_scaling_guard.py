"""The guard fails on a ratio that has fallen by more than a third, and says what to do."""

from typing import Any

import pytest

from benchmarks.scaling.guard import HIGHER_IS_BETTER, fallen, ratios_of, read_baseline

BASELINE = {"speedup_over_textbook": 6.0, "shift_store_ratio": 0.2, "incremental_ratio": 0.3}


@pytest.mark.parametrize(
    "report",
    [
        BASELINE,
        BASELINE | {"speedup_over_textbook": 4.01},
        BASELINE | {"speedup_over_textbook": 60.0},
        BASELINE | {"incremental_ratio": 0.44, "shift_store_ratio": 0.01},
    ],
)
def test_a_ratio_may_be_worse_by_a_third_and_better_by_any_factor(report: dict[str, float]) -> None:
    assert fallen(report, BASELINE) == []


@pytest.mark.parametrize(
    ("name", "now", "message"),
    [
        ("speedup_over_textbook", 3.9, "was 6, is 3.9; it must be at least 4. Find the change"),
        ("incremental_ratio", 0.46, "was 0.3, is 0.46; it must be at most 0.45. Find the change"),
        ("shift_store_ratio", 0.31, "was 0.2, is 0.31; it must be at most 0.3. Find the change"),
    ],
)
def test_a_ratio_that_fell_further_is_named(name: str, now: float, message: str) -> None:
    (problem,) = fallen(BASELINE | {name: now}, BASELINE)
    assert problem.startswith(f"{name}: {message}")
    assert "benchmarks/baseline.json" in problem


def test_seconds_are_never_judged() -> None:
    slow: dict[str, Any] = {**BASELINE, "seconds": 1e9, "peak_rss_bytes": 10**12}
    assert fallen(slow, BASELINE) == []
    assert ratios_of(slow) == BASELINE


def test_the_baseline_holds_the_ratios_and_nothing_else() -> None:
    assert set(read_baseline()) == set(HIGHER_IS_BETTER)
