"""The ratios that the project states: one layer of each type of a tower, in memory, beside the textbook."""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scaling.alone import peak_alone, prepare
from benchmarks.scaling.compare import Row, compare_layer
from benchmarks.scaling.machine import machine_facts, product_rates, threads
from benchmarks.scaling.problem import layer_problems
from benchmarks.scaling.tables import size
from esm_core.storage import Location

Report = dict[str, Any]


def compare(tower: str, tasks: int, count: int = 1, reference: bool = True) -> Report:
    """Measure and sum up.

    Parameters
    ----------
    tower : str
        open_clip's name of the model.
    tasks : int
        Fine-tunes of the merge that is set against the textbook.
    count : int
        Threads of both.
    reference : bool
        Whether both are set against the textbook in float64 too, which takes longest of all.
    """
    started = time.perf_counter()
    with threads(count), tempfile.TemporaryDirectory() as work:
        facts, rates = machine_facts(), product_rates()
        folder = Location.parse(str(Path(work)))
        rows = []
        for problem in layer_problems(tower, tasks):
            print(f"measuring {problem.kind} ...", flush=True)
            rows.append(compare_layer(problem, rates, folder, reference))
            prepare(folder, problem)
        alone = peak_alone(folder, tower, tasks, count)
    return {
        **summary(rows),
        "peak_rss_bytes": alone["peak_rss"],
        "peak_rss_above_imports_bytes": alone["peak_rss"] - alone["rss_before"],
        "tower": tower,
        "tasks": tasks,
        "threads": count,
        "layers": rows,
        "product_rates": rates,
        "machine": facts,
        "seconds": time.perf_counter() - started,
    }


def summary(rows: list[Row]) -> Report:
    """The ratios of all layers together; seconds are CPU seconds where nothing else is said.

    ``speedup_over_textbook`` is of decomposing and fusing, ``speedup_with_compression`` charges esm_core
    with the compression of the inputs, which is part of collecting. Bytes are of the layers whose inputs a
    merge needs.
    """
    essential = [row for row in rows if row["essential"]]
    own, theirs = (sum(row["cpu"][step] for row in rows) for step in ("ours", "textbook"))
    compression = sum(row["cpu"]["compress"] for row in essential)
    add, cold = (sum(row["incremental"][name] for row in rows) for name in ("add", "cold"))
    return {
        "speedup_over_textbook": theirs / own,
        "speedup_with_compression": theirs / (own + compression),
        "speedup_wall": sum(r["wall"]["textbook"] for r in rows) / sum(r["wall"]["ours"] for r in rows),
        "max_relative_difference": _largest(rows, "textbook"),
        "max_relative_difference_to_reference": _largest(rows, "ours_to_reference"),
        "textbook_max_relative_difference_to_reference": _largest(rows, "textbook_to_reference"),
        "shift_store_ratio": _stored(essential),
        "shift_store_ratio_with_out_proj": _stored(rows),
        "incremental_ratio": add / cold,
        "incremental_max_relative_difference": max(row["incremental"]["difference"] for row in rows),
        "share_of_floor": sum(r["floor"]["decompose"] + r["floor"]["fuse"] for r in rows) / own,
    }


def _stored(rows: list[Row]) -> float:
    return float(sum(row["stored_bytes"] for row in rows) / sum(row["raw_shift_bytes"] for row in rows))


def _largest(rows: list[Row], name: str) -> float | None:
    found = [row["difference"][name] for row in rows if name in row["difference"]]
    return max(found) if found else None


def table(report: Report) -> list[str]:
    """The report as lines of Markdown."""
    lines = [
        "| layer | shape | textbook | ours | speed-up | decompose | of floor | fuse | of floor | compress "
        "| ours − textbook | ours − float64 | textbook − float64 | stored |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["layers"]:
        cpu, floor, difference = row["cpu"], row["floor"], row["difference"]
        cells = [
            row["kind"],
            f"{row['d_out']}×{row['d_in']}",
            f"{cpu['textbook']:.2f} s",
            f"{cpu['ours']:.2f} s",
            f"{row['speedup']:.1f}×",
            f"{cpu['decompose']:.2f} s",
            f"{floor['decompose_share']:.0%}",
            f"{cpu['fuse']:.2f} s",
            f"{floor['fuse_share']:.0%}",
            f"{cpu['compress']:.2f} s",
            _small(difference["textbook"]),
            _small(difference.get("ours_to_reference")),
            _small(difference.get("textbook_to_reference")),
            f"{row['stored_bytes'] / row['raw_shift_bytes']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rates = report["product_rates"]
    return [
        *lines,
        "",
        f"- speed-up over the textbook: **{report['speedup_over_textbook']:.2f}×** of CPU time "
        f"({report['speedup_wall']:.2f}× of wall time; {report['speedup_with_compression']:.2f}× where ours "
        "is charged with the compression of the inputs)",
        f"- largest relative difference: {_small(report['max_relative_difference'])} between the two; to "
        f"float64 {_small(report['max_relative_difference_to_reference'])} ours, "
        f"{_small(report['textbook_max_relative_difference_to_reference'])} the textbook",
        f"- shift store: {report['shift_store_ratio']:.3f} of the raw float32 shifts of the layers whose "
        f"inputs are needed ({report['shift_store_ratio_with_out_proj']:.3f} with out_proj)",
        f"- one fine-tune more: {report['incremental_ratio']:.2f} of a cold merge of {report['tasks'] + 1}",
        f"- peak memory of a process that merges these layers: {size(report['peak_rss_bytes'])}, of which "
        f"{size(report['peak_rss_above_imports_bytes'])} beyond its imports",
        f"- floor: {report['share_of_floor']:.0%} of the CPU time; products run at "
        f"{rates['float64'] / 1e9:.0f} GFLOP/s in float64, {rates['float32'] / 1e9:.0f} in float32",
        f"- {report['seconds']:.0f} s in all",
    ]


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"
