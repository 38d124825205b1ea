"""The page: what was measured, in tables and plots, and which claims hold."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.quality_parts import labels, words
from benchmarks.quality_parts.aggregate import spread
from benchmarks.quality_parts.automatic import section
from benchmarks.quality_parts.claims import (
    CLAIMS,
    ORDERING,
    ORDERING_TUNED,
    PAPER,
    Verdict,
    judge,
    ordering,
    truncation_holds,
)
from benchmarks.quality_parts.plots import draw
from benchmarks.quality_parts.variants import SPECTRAL_GRID, SUM_GRID
from benchmarks.scaling.tables import machine_line, markdown

Summary = Mapping[str, Any]
ByTasks = Mapping[int, Summary]
"""Number of tasks, the largest first → what :func:`aggregate.summarise` says."""

PLOTS = "quality_plots"
LABEL_FREE_AND_VALIDATION = {"": ", label-free", "_validation": ", validation"}


def write_page(report: Mapping[str, Any], folder: Path) -> Path:
    """Write ``QUALITY.md`` and its plots; the page's path."""
    draw(_by_tasks(report), folder / PLOTS)
    path = folder / "QUALITY.md"
    path.write_text("\n".join(lines(report)) + "\n")
    return path


def table_of_methods(report: Mapping[str, Any]) -> Table:
    """For the terminal: the methods' normalised accuracy."""
    by_tasks = _by_tasks(report)
    table = Table("", *(f"{count} tasks" for count in by_tasks), title="Normalised accuracy, %")
    for column, label in labels.METHODS.rows:
        cells = [_cell(summary, column) for summary in by_tasks.values()]
        if any(cells):
            table.add_row(label, *cells)
    return table


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The page's Markdown, by pieces that newlines join."""
    by_tasks = _by_tasks(report)
    yield words.HEAD.format(
        command=report["command"],
        machine=machine_line(report["machine"], 1),
        seeds=", ".join(map(str, report["seeds"])),
        tasks="\n".join(f"- {count} tasks: {', '.join(own['tasks'])}." for count, own in by_tasks.items()),
    )
    yield from _orderings(by_tasks)
    yield from _claims(by_tasks)
    yield from ("## Methods", "")
    yield from _table(by_tasks, labels.METHODS.rows)
    yield from ("## Parts of ESM", "", words.PARTS)
    yield from _table(by_tasks, labels.ABLATIONS.rows, LABEL_FREE_AND_VALIDATION)
    yield from _plot("What changes without a part of ESM", "parts")
    yield from ("## Proxy images", "", words.PROXIES)
    yield from _table(by_tasks, labels.PROXIES.rows, LABEL_FREE_AND_VALIDATION)
    yield from _experts(by_tasks)
    yield from _truncation(*next(iter(by_tasks.items())))
    found = {count: own["automatic"] for count, own in by_tasks.items()}
    yield from section(found, report["seeds"], report["held_out_seeds"])
    yield from _others(by_tasks)
    yield from _chosen(by_tasks)


def _by_tasks(report: Mapping[str, Any]) -> ByTasks:
    return {
        int(count): report["by_tasks"][count] for count in sorted(report["by_tasks"], key=int, reverse=True)
    }


def _plot(text: str, name: str) -> Iterator[str]:
    yield from (f"![{text}]({PLOTS}/{name}.svg)", "")


def _orderings(by_tasks: ByTasks) -> Iterator[str]:
    yield from ("## The order of methods", "")
    for count, summary in by_tasks.items():
        for title, columns in (("default", ORDERING), ("tuned", ORDERING_TUNED)):
            yield _one_ordering(f"{count} tasks, {title} coefficients", summary, columns)
    yield ""
    yield from _plot("Normalised accuracy by method", "methods")


def _one_ordering(title: str, summary: Summary, columns: Sequence[str]) -> str:
    known = [column for column in columns if column in summary["normalized"]]
    verdicts = judge(summary, list(ordering(known)))
    means = [
        f"{_short(column)} {100 * statistics.fmean(summary['normalized'][column]):.1f}" for column in known
    ]
    broken = [verdict for verdict in verdicts if not verdict.holds]
    if broken:
        return f"- **{title}: the order does not hold.** {_pairs(broken)}. All: {', '.join(means)}."
    weak = [verdict for verdict in verdicts if verdict.words != "holds"]
    every = f"not in every seed: {_pairs(weak)}" if weak else "and in every seed"
    return f"- **{title}: the order holds** in the mean over seeds ({every}). {' > '.join(means)}."


def _pairs(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(
        f"{_short(v.claim.left)} over {_short(v.claim.right)} {100 * v.mean:+.2f} points, in {v.seeds} of "
        f"{len(v.differences)} seeds"
        for v in verdicts
    )


def _short(column: str) -> str:
    return labels.names().get(column, column)


def _claims(by_tasks: ByTasks) -> Iterator[str]:
    verdicts = [{v.claim: v for v in judge(summary, CLAIMS)} for summary in by_tasks.values()]
    rows = [
        [claim.text, claim.source, *(_verdict(own[claim]) for own in verdicts)]
        for claim in CLAIMS
        if claim in verdicts[0]
    ]
    for basis, label in labels.BASES:
        cells = [_truncation_verdict(summary, basis) for summary in by_tasks.values()]
        if basis != labels.SVD and any(cells):
            source = PAPER if basis == labels.ESD else "not claimed"
            rows.append([f"{label}: less functional error than SVD, on held-out inputs", source, *cells])
    yield from ("## Which claims hold at this scale", "")
    for count, own in zip(by_tasks, verdicts, strict=True):
        failed = [claim.text for claim, verdict in own.items() if not verdict.holds]
        yield (
            f"- {count} tasks: {len(own) - len(failed)} of {len(own)} hold in the mean over seeds. Not so: "
            f"{'; '.join(failed) or 'none'}."
        )
    yield ""
    yield from markdown(["Claim", "From", *(f"{count} tasks: points, verdict" for count in by_tasks)], rows)
    yield words.CLAIMS


def _verdict(verdict: Verdict) -> str:
    return f"{100 * verdict.mean:+.2f}, **{verdict.words}** ({verdict.seeds} of {len(verdict.differences)})"


def _truncation_verdict(summary: Summary, basis: str) -> str:
    kinds = truncation_holds(summary, basis)
    if not kinds:
        return ""
    broken = [kind for kind, holds in kinds.items() if not holds]
    return "**holds** at every rank" if not broken else f"**does not hold** in {', '.join(broken)}"


def _table(
    by_tasks: ByTasks, rows: Sequence[tuple[str, str]], endings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Normalised accuracy by number of tasks, and by ending of the column: another choice of α."""
    endings = endings or {"": ""}
    heads = ["", *(f"{count} tasks{title}" for count in by_tasks for title in endings.values())]
    cells = [
        [label, *(_cell(summary, column + ending) for summary in by_tasks.values() for ending in endings)]
        for column, label in rows
    ]
    yield from markdown(heads, [row for row in cells if any(row[1:])])
    yield ""


def _cell(summary: Summary, column: str) -> str:
    values = summary["normalized"].get(column)
    return "" if values is None else spread(values)


def _experts(by_tasks: ByTasks) -> Iterator[str]:
    yield from ("## Experts and routers", "", words.EXPERTS)
    for count, summary in by_tasks.items():
        rows = [
            _expert_row(summary, column, label)
            for column, label in labels.EXPERTS.rows
            if f"{column}_route" in summary["routing"]
        ]
        yield from markdown([f"{count} tasks", "Routed", "Oracle", "Right, %", "MB"], rows)
        yield ""
    yield from _plot("Experts by rank", "ranks")
    yield from ("Where the test images of a task were sent, in percent of them:", "")
    yield from _plot("Routing confusion, the published router and ours", "confusion")


def _expert_row(summary: Summary, column: str, label: str) -> list[str]:
    right = statistics.fmean(summary["routing"][f"{column}_route"]["accuracy"])
    size = summary["expert_bytes"][f"{column}_route"] / 1e6
    cells = [_cell(summary, f"{column}_{mode}") for mode in ("route", "oracle")]
    return [label, *cells, f"{100 * right:.1f}", f"{size:.1f}"]


def _truncation(count: int, summary: Summary) -> Iterator[str]:
    if not summary["truncation"]:
        return
    yield from (f"## Truncation, {count} tasks", "", words.TRUNCATION)
    rows = [
        [kind, f"{100 * float(share):g} %"]
        + [f"{100 * statistics.fmean(bases[basis][share]):.3g}" for basis, _ in labels.BASES]
        for kind, bases in summary["truncation"].items()
        for share in bases[labels.SVD]
    ]
    yield from markdown(["Layer", "Rank", *(label for _, label in labels.BASES)], rows)
    yield ""
    yield from _plot("Functional truncation error of ESD and SVD", "truncation")


def _others(by_tasks: ByTasks) -> Iterator[str]:
    columns = labels.others([column for summary in by_tasks.values() for column in summary["normalized"]])
    if columns:
        yield from ("## Further variants", "")
        yield from _table(by_tasks, [(column, f"`{column}`") for column in dict.fromkeys(columns)])


def _chosen(by_tasks: ByTasks) -> Iterator[str]:
    yield from ("## What was chosen", "")
    yield words.CHOSEN.format(sums=_grid(SUM_GRID), spectral=_grid(SPECTRAL_GRID))
    first = next(iter(by_tasks.values()))
    rows = [
        [f"`{column}`", *(_values(summary["coefficient"].get(column, [])) for summary in by_tasks.values())]
        for column in first["coefficient"]
        if not column.endswith("_released")
    ]
    yield from markdown(["Column of the JSON", *(f"{count} tasks" for count in by_tasks)], rows)


def _grid(grid: Sequence[float]) -> str:
    return f"{grid[0]:g} to {grid[-1]:g} in steps of {grid[1] - grid[0]:g}"


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
