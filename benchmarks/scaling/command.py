"""The command line of ``benchmarks/scale.py``."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scaling import guard, quick
from benchmarks.scaling.growth import TOWERS, over_tasks, over_width, plot, tasks_table, width_table
from benchmarks.scaling.loads import load_ratios
from benchmarks.scaling.loads import table as load_table
from benchmarks.scaling.machine import machine_facts, threads
from benchmarks.scaling.pipeline import Setting, ninth, ninth_table, pipeline
from benchmarks.scaling.pipeline import table as pipeline_table
from benchmarks.scaling.tables import machine_line

Report = dict[str, Any]
Options = argparse.Namespace

_ROUNDS_OF_LOADING = 11


def main() -> None:
    """Measure what is asked for, print Markdown, and write JSON."""
    options = _parse()
    if options.quick:
        report, lines = _compare(options)
    else:
        report, lines = _full(options)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    if options.keep_baseline:
        guard.BASELINE.write_text(json.dumps(guard.ratios_of(report), indent=1) + "\n")
    if options.guard:
        problems = guard.fallen(report, guard.read_baseline())
        print("\n".join(problems))
        sys.exit(1 if problems else 0)


def _parse() -> Options:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="python benchmarks/scale.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one layer of each type, beside the textbook")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--markdown", type=Path, help="where the tables go")
    parser.add_argument("--guard", action="store_true", help="with --quick: fail where a ratio has fallen")
    parser.add_argument("--keep-baseline", action="store_true", help="with --quick: keep its ratios")
    parser.add_argument("--no-reference", action="store_true", help="no textbook in float64")
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--tower", default="ViT-B-32", help="open_clip name, or a path to a configuration")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the linear algebra")
    parser.add_argument("--workers", type=int, default=cores, help="layers merged at once")
    parser.add_argument("--collectors", type=int, default=1, help="fine-tunes collected at once")
    parser.add_argument("--rounds", type=int, default=1, help="of growth and ninth: the median is taken")
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="inputs, stores, records; kept")
    parser.add_argument("--fresh", action="store_true", help="forget results; inputs are kept")
    parser.add_argument("--plot", type=Path, help="where the plot of the growth goes (SVG)")
    options = parser.parse_args()
    if (options.guard or options.keep_baseline) and not options.quick:
        parser.error("--guard and --keep-baseline need --quick")
    return options


def _full(options: Options) -> tuple[Report, list[str]]:
    """The parts that are asked for; finished ones are read from ``--work``, where they keep their results."""
    setting = Setting(
        tower=options.tower,
        work=options.work / Path(options.tower).stem,
        workers=options.workers,
        collectors=options.collectors,
        threads=options.threads,
    )
    if options.fresh:
        for folder in setting.work.glob("*"):
            if folder.name.startswith(("results", "records", "store")):
                shutil.rmtree(folder)
    report: Report = {}
    lines: list[str] = []
    for name in PARTS if options.part == "all" else [options.part]:
        part = _kept(setting, name, options)
        report[name] = part["result"]
        heading = f"### {name}: {options.tower}"
        if name == "growth" and options.plot:
            plot(part["result"]["tasks"], part["result"]["width"], options.plot)
        lines += [heading, "", machine_line(part["machine"], options.threads), "", *part["lines"], ""]
    return report, lines


def _kept(setting: Setting, name: str, options: Options) -> Report:
    path = setting.work / "results" / f"{name}-{options.tasks}.json"
    if not path.exists():
        with threads(options.threads):
            facts = machine_facts()
            result, lines = PARTS[name](setting, options)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": facts, "result": result, "lines": lines}, indent=1) + "\n")
    kept: Report = json.loads(path.read_text())
    return kept


def _compare(options: Options) -> tuple[Report, list[str]]:
    report = quick.compare(options.tower, options.tasks, options.threads, not options.no_reference)
    return report, quick.table(report)


def _merge(setting: Setting, options: Options) -> tuple[Report, list[str]]:
    report = pipeline(setting, options.tasks)
    return report, pipeline_table(report)


def _growth(setting: Setting, options: Options) -> tuple[Report, list[str]]:
    tasks = over_tasks(options.tower, rounds=options.rounds)
    width = over_width(TOWERS, options.tasks, options.rounds)
    return {"tasks": tasks, "width": width}, [*tasks_table(tasks), "", *width_table(width)]


def _ninth(setting: Setting, options: Options) -> tuple[Report, list[str]]:
    report = ninth(setting, options.tasks, options.rounds)
    return report, ninth_table(report)


def _load(setting: Setting, options: Options) -> tuple[Report, list[str]]:
    pipeline(setting, options.tasks)
    report = load_ratios(setting.work / "store", "bench", _ROUNDS_OF_LOADING, setting.threads)
    return report, load_table(report)


PARTS: Mapping[str, Callable[[Setting, Options], tuple[Report, list[str]]]] = {
    "compare": lambda setting, options: _compare(options),
    "pipeline": _merge,
    "load": _load,
    "ninth": _ninth,
    "growth": _growth,
}
