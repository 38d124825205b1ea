"""How decomposing and fusing grows with the number of tasks and with the width of the tower."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.scaling import ours
from benchmarks.scaling.problem import LayerProblem, layer_problems
from benchmarks.scaling.tables import markdown, seconds
from benchmarks.scaling.usage import NOTHING, Usage, measured

Report = dict[str, Any]

TASKS = (2, 4, 8, 16, 20)
FITTED = (2, 4, 8, 16)
TOWERS = ("ViT-S-32", "ViT-M-32", "ViT-B-32", "ViT-B-16", "ViT-L-14")
"""Widths 384, 512, 768, 768 and 1024."""


@dataclass(frozen=True)
class Held:
    """A layer with the compressed factors of its tasks."""

    problem: LayerProblem
    factors: list[ours.Factor]

    def merge(self, tasks: int) -> Tensor:
        """Decompose and fuse the first ``tasks``."""
        problem = self.problem.with_tasks(tasks)
        pairs = list(zip(self.problem.updates, self.factors, strict=True))[:tasks]
        return ours.fuse([ours.decompose(problem, update, factor) for update, factor in pairs])


def hold(problem: LayerProblem) -> Held:
    """Make the factors. Rows beyond twice the width add nothing to a factor's size: none are made."""
    short = replace(problem, rows=min(problem.rows, 2 * problem.d_in))
    pairs = zip(short.updates, short.inputs(), strict=True)
    factors = [ours.compress(short, update, rows)._replace(rows=problem.rows) for update, rows in pairs]
    return Held(short, factors)


def over_tasks(tower: str, tasks: Sequence[int] = TASKS, rounds: int = 1) -> Report:
    """CPU and wall seconds of one layer of each type, by number of tasks, in turns; the exponent and ratios.

    Parameters
    ----------
    tower : str
    tasks : sequence of int
        Ascending.
    rounds : int
        The median over them is taken.
    """
    runs: dict[int, list[Usage]] = {count: [NOTHING] * rounds for count in tasks}
    for problem in layer_problems(tower, max(tasks)):
        print(f"growth: {problem.kind} ...", flush=True)
        held = hold(problem)
        for turn in range(rounds):
            for count in tasks:
                runs[count][turn] += measured(lambda n=count, h=held: h.merge(n))[1]  # type: ignore[misc]
    points = [{"tasks": count, **_medians(runs[count])} for count in tasks]
    fitted = [point for point in points if point["tasks"] in FITTED]
    by_tasks = {point["tasks"]: point["cpu"] for point in points}
    return {
        "tower": tower,
        "points": points,
        "exponent": exponent([p["tasks"] for p in fitted], [p["cpu"] for p in fitted]),
        "twenty_over_eight": by_tasks[20] / by_tasks[8] if {8, 20} <= set(by_tasks) else None,
    }


def over_width(towers: Sequence[str], tasks: int, rounds: int = 1) -> Report:
    """CPU and wall seconds of one layer of each type, by tower, in turns; the exponent in the width."""
    points: list[dict[str, Any]] = []
    for tower in towers:
        print(f"growth: {tower} ...", flush=True)
        problems = layer_problems(tower, tasks)
        runs = [NOTHING] * rounds
        for problem in problems:
            held = hold(problem)
            runs = [total + measured(lambda h=held: h.merge(tasks))[1] for total in runs]  # type: ignore[misc]
        width = min(problem.d_in for problem in problems)
        points.append({"tower": tower, "width": width, **_medians(runs)})
    fit = exponent([p["width"] for p in points], [p["cpu"] for p in points])
    return {"tasks": tasks, "points": points, "exponent": fit}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """``k`` of the least-squares fit ``log cost = k log size + c``; NaN for one size only."""
    if len(set(sizes)) < 2:
        return math.nan
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(c) for c in costs]).slope


def tasks_table(report: Report) -> list[str]:
    """The growth with the number of tasks as lines of Markdown."""
    rows = [[p["tasks"], seconds(p["cpu"]), seconds(p["wall"])] for p in report["points"]]
    lines = [
        *markdown(["tasks", "CPU", "wall"], rows),
        "",
        f"- {report['tower']}, one layer of each type: time grows as T to the power {report['exponent']:.2f} "
        f"(least squares over T = {', '.join(map(str, FITTED))})",
    ]
    if report["twenty_over_eight"] is not None:
        lines.append(f"- T = 20 takes {report['twenty_over_eight']:.2f}× the CPU time of T = 8")
    return lines


def width_table(report: Report) -> list[str]:
    """The growth with the width as lines of Markdown."""
    rows = [[p["tower"], p["width"], seconds(p["cpu"]), seconds(p["wall"])] for p in report["points"]]
    return [
        *markdown(["tower", "width", "CPU", "wall"], rows),
        "",
        f"- {report['tasks']} tasks, one layer of each type: time grows as the width to the power "
        f"{report['exponent']:.2f}",
    ]


def plot(tasks: Report, width: Report, path: Path) -> None:
    """Both growths beside each other, an SVG of the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "esmerge", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _panel(left, tasks, "tasks", f"{tasks['tower']}: tasks")
        _panel(right, width, "width", f"{width['tasks']} tasks: width")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, report: Report, name: str, title: str) -> None:
    from matplotlib.ticker import LogLocator

    sizes, costs = [p[name] for p in report["points"]], [p["cpu"] for p in report["points"]]
    slope = report["exponent"]
    middle = math.exp(statistics.fmean(map(math.log, costs)) - slope * statistics.fmean(map(math.log, sizes)))
    axes.loglog(sizes, costs, "o", color="#1f77b4", label="measured")
    axes.loglog(sizes, [middle * s**slope for s in sizes], "-", color="#999999", label=f"power {slope:.2f}")
    ticks = sorted(set(sizes))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(title=title, xlabel=name, ylabel="CPU seconds, one layer of each type")
    axes.legend(frameon=False)


def _medians(runs: Sequence[Usage]) -> dict[str, float]:
    return {clock: statistics.median(getattr(run, clock) for run in runs) for clock in ("cpu", "wall")}
