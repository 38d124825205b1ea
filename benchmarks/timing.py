"""Timing on a machine that others use: ratios within rounds, never seconds."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Times = dict[str, list[float]]


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """CPU seconds of every call in every round.

    A round makes all calls, so a slow spell of the machine falls on all of them. The CPU time of a
    process on one thread leaves out most of what others do on its core.
    """
    times: Times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return times


def ratio(times: Times, name: str, to: str) -> float | None:
    """Median over rounds of the ratio within a round; None where one of the two was not run."""
    if name not in times or to not in times:
        return None
    return statistics.median(mine / other for mine, other in zip(times[name], times[to], strict=True))
