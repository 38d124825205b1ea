"""The page's plots: SVG files, the same bytes for the same figures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality_parts.labels import ABLATIONS, ESD, METHODS, RANKS, SVD

Summary = Mapping[str, Any]

_BLUE, _ORANGE, _GREY = "#1f77b4", "#d95f02", "#999999"


def draw(by_tasks: Mapping[int, Summary], folder: Path) -> list[Path]:
    """Draw what was measured; the files that were written."""
    import matplotlib as mpl

    summary = by_tasks[max(by_tasks)]
    plots: dict[str, Callable[[Any], None]] = {
        "methods.svg": lambda figure: _methods(figure, by_tasks),
        "parts.svg": lambda figure: _parts(figure, summary),
        "ranks.svg": lambda figure: _ranks(figure, summary),
        "truncation.svg": lambda figure: _truncation(figure, summary),
        "confusion.svg": lambda figure: _confusion(figure, summary),
    }
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "svg.hashsalt": "esmerge",
        "svg.fonttype": "none",
        "font.size": 9,
        "savefig.facecolor": "white",
    }
    with mpl.rc_context(settings):
        for name, plot in plots.items():
            _save(folder / name, plot)
    return [folder / name for name in plots]


def _save(path: Path, plot: Callable[[Any], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    plot(figure)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _methods(figure: Any, by_tasks: Mapping[int, Summary]) -> None:
    """The range over seeds, a dot for each, and a tick at the mean; the first row on top."""
    panels = figure.subplots(1, len(by_tasks), sharey=True, squeeze=False)[0]
    for axes, (count, summary) in zip(panels, sorted(by_tasks.items()), strict=True):
        found = summary["normalized"]
        rows = [(label, _percent(found[column])) for column, label in METHODS.rows if column in found]
        places = [-place for place in range(len(rows))]
        axes.hlines(places, [min(own) for _, own in rows], [max(own) for _, own in rows], color=_GREY)
        axes.plot([statistics.fmean(own) for _, own in rows], places, "|", color=_BLUE, markersize=10)
        for place, (_, own) in zip(places, rows, strict=True):
            axes.plot(own, [place] * len(own), ".", color=_BLUE, markersize=4)
        axes.set_yticks(places, [label for label, _ in rows])
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set(title=f"{count} tasks", xlabel="normalised accuracy, %")


def _parts(figure: Any, summary: Summary) -> None:
    found = summary["normalized"]
    axes = figure.subplots()
    rows = [
        (label, [100 * (a - b) for a, b in zip(found[column], found["esm"], strict=True)])
        for column, label in ABLATIONS.rows
        if column in found and column != "esm"
    ]
    places = [-place for place in range(len(rows))]
    axes.barh(places, [statistics.fmean(own) for _, own in rows], color=_BLUE, alpha=0.5)
    for place, (_, own) in zip(places, rows, strict=True):
        axes.plot(own, [place] * len(own), ".", color=_BLUE, markersize=4)
    axes.set_yticks(places, [label for label, _ in rows])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(
        title=f"What changes without a part of ESM ({len(summary['tasks'])} tasks)",
        xlabel="points of normalised accuracy",
    )


def _ranks(figure: Any, summary: Summary) -> None:
    found = summary["normalized"]
    axes = figure.subplots()
    for (label, columns), colour in zip(RANKS.items(), (_BLUE, _ORANGE), strict=True):
        for mode, style in (("oracle", "--"), ("route", "-")):
            known = {rank: found[f"{c}_{mode}"] for rank, c in columns.items() if f"{c}_{mode}" in found}
            means = [100 * statistics.fmean(values) for values in known.values()]
            axes.plot(list(known), means, style, marker="o", color=colour, label=f"{label}, {mode}")
    axes.axhline(100 * statistics.fmean(found["esm"]), color=_GREY, linestyle=":", label="ESM, no experts")
    axes.set_xscale("log", base=2)
    axes.set_xticks([4, 8, 16, 32], ["4", "8", "16", "32"])
    axes.set(
        title=f"Experts by rank ({len(summary['tasks'])} tasks)",
        xlabel="rank",
        ylabel="normalised accuracy, %",
    )
    axes.legend(frameon=False)


def _truncation(figure: Any, summary: Summary) -> None:
    kinds = summary["truncation"]
    panels = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    for axes, (kind, bases) in zip(panels, kinds.items(), strict=False):
        for basis, label, colour in ((SVD, "SVD", _ORANGE), (ESD, "ESD", _BLUE)):
            shares = [100 * float(share) for share in bases[basis]]
            means = [100 * statistics.fmean(errors) for errors in bases[basis].values()]
            axes.semilogy(shares, means, "-o", color=colour, label=label, markersize=3)
        axes.set_xticks([5, 10, 25])
        axes.set(title=kind, xlabel="rank, %")
    panels[0].set_ylabel("error on held-out inputs, %")
    panels[0].legend(frameon=False)


def _confusion(figure: Any, summary: Summary) -> None:
    known = [
        (label, summary["routing"][column])
        for column, label in (("esm_pp_published_rank8_route", "cosine"), ("esm_pp_route", "ours"))
        if column in summary["routing"]
    ]
    tasks = summary["tasks"]
    panels = figure.subplots(1, max(1, len(known)), squeeze=False)[0]
    for axes, (label, routing) in zip(panels, known, strict=False):
        table = routing["confusion"]
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
        for row, shares in enumerate(table):
            for column, share in enumerate(shares):
                if share >= 0.005:
                    colour = "white" if share > 0.5 else "black"
                    text = f"{100 * share:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(tasks)), tasks, rotation=60)
        axes.set_yticks(range(len(tasks)), tasks)
        mean = 100 * statistics.fmean(routing["accuracy"])
        axes.set(title=f"{label}: {mean:.1f} % right", xlabel="expert", ylabel="task")
