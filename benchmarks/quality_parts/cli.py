"""The command: models, measurements, JSON and page."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.quality_parts.aggregate import summarise
from benchmarks.quality_parts.automatic import automatic
from benchmarks.quality_parts.candidates import PREFIX
from benchmarks.quality_parts.claims import CLAIMS, ORDERING, ORDERING_TUNED, judge, ordering
from benchmarks.quality_parts.page import table_of_methods, write_page
from benchmarks.quality_parts.run import TASKS, Job, Measured, measure_all
from benchmarks.quality_parts.variants import AUTOMATIC, QUICK, VARIANTS
from benchmarks.scaling.machine import machine_facts
from demo.prepare import QUICK_SCHEDULE, QUICK_SIZES, SCHEDULE, SIZES, prepare

FORMAT = 1
HERE = Path(__file__).parents[1]


def main() -> None:
    """Measure what is not kept; write JSON and, after a full run, the page."""
    options = _parser().parse_args()
    jobs = [
        Job(seed, count, _models(options, seed), options.work, _variants(options.quick))
        for seed in range(1 if options.quick else options.seeds)
        for count in _counts(options.tasks)
    ]
    jobs += [
        Job(seed, count, _models(options, seed), options.work, tuple(variant.name for variant in AUTOMATIC))
        for seed in _held_out(options)
        for count in _counts(options.tasks)
    ]
    found = {(job.seed, job.tasks): results for job, results in measure_all(jobs, options.workers)}
    report = make_report(found, options.quick, _held_out(options))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    Console(width=110).print(table_of_methods(report))
    folder = options.page or (None if options.quick or options.tasks else HERE)
    if folder is not None:
        print(f"page: {write_page(report, folder)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quality.py",
        description="How good the merges are. What was measured before is not again.",
    )
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.add_argument("--quick", action="store_true", help="a seed of tiny, poor models: only that it runs")
    parser.add_argument("--seeds", type=_positive, default=3, help="how many seeds, from 0 on (default 3)")
    parser.add_argument(
        "--held-out",
        type=_natural,
        default=3,
        help="how many seeds more, for settings that are chosen automatically (default 3)",
    )
    parser.add_argument("--tasks", type=int, choices=sorted(TASKS), help="merge so many tasks only")
    parser.add_argument("--page", type=Path, help="where the page goes; after a full run, benchmarks/")
    parser.add_argument("--work", type=Path, default=Path(".bench/quality"), help="models, kept results")
    parser.add_argument("--workers", type=_positive, default=2, help="processes, one thread each (default 2)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _held_out(options: argparse.Namespace) -> Sequence[int]:
    return [] if options.quick else range(options.seeds, options.seeds + options.held_out)


def _counts(only: int | None) -> Sequence[int]:
    return [only] if only else sorted(TASKS, reverse=True)


def _variants(quick: bool) -> tuple[str, ...]:
    return tuple(variant.name for variant in VARIANTS if not quick or variant.name in QUICK)


def _models(options: argparse.Namespace, seed: int) -> Path:
    sizes, schedule = (QUICK_SIZES, QUICK_SCHEDULE) if options.quick else (SIZES, SCHEDULE)
    folder: Path = options.work / f"{'quick' if options.quick else 'seed'}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, sizes, schedule, seed)
    return folder


def make_report(found: Measured, quick: bool, held_out: Sequence[int] = ()) -> dict[str, Any]:
    """The benchmark's JSON. ``normalized`` at the top is of the largest number of tasks."""
    seeds = sorted({seed for seed, _ in found} - set(held_out))
    by_tasks = {}
    for count in sorted({count for _, count in found}, reverse=True):
        own, others = ([_columns(found[seed, count]) for seed in part] for part in (seeds, held_out))
        methods = [{c: f for c, f in seed.items() if not c.startswith(PREFIX)} for seed in own]
        by_tasks[count] = summarise(methods) | {"automatic": automatic(own, others)}
    main = by_tasks[max(by_tasks)]
    claims = [*ordering(ORDERING), *ordering(ORDERING_TUNED), *CLAIMS]
    return {
        "format": FORMAT,
        "command": shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]]),
        "machine": machine_facts(),
        "quick": quick,
        "seeds": seeds,
        "held_out_seeds": list(held_out),
        "normalized": main["normalized"],
        "claims": {
            str(count): [verdict.as_json() for verdict in judge(summary, claims)]
            for count, summary in by_tasks.items()
        },
        "by_tasks": {str(count): summary for count, summary in by_tasks.items()},
    }


def _columns(results: dict[str, Any]) -> dict[str, Any]:
    """Column → figures, whichever variant they are from."""
    return {column: figures for columns in results.values() for column, figures in columns.items()}
