"""The real pipeline on real files: every stage in a process of its own, one after the other."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fine_tunes import Architecture, write_inputs, write_recipe
from benchmarks.scaling.machine import ROOT, environment
from benchmarks.scaling.stage import STAGES, Record, read_record, run_stage
from benchmarks.scaling.tables import markdown, seconds, size
from benchmarks.scaling.usage import NOTHING
from esm_core.layers import layer_kind
from esm_core.merge import merges_essentially
from esm_core.plan import Plan, load_plan
from esm_core.storage import Location

Report = dict[str, Any]

ALPHA = 1.0
MERGING = tuple(name for name in STAGES if name not in ("verify", "load"))
"""The stages up to a published version."""

_GROWN = "store-grown"


@dataclass(frozen=True)
class Setting:
    """What is merged, and by how many at once.

    Attributes
    ----------
    tower : str or dict
        open_clip's name of the model, or the content of its configuration.
    work : Path
        Folder for inputs, stores and records; kept.
    workers : int
        Layers that are merged at once, as the flow's threads do it.
    collectors : int
        Fine-tunes that are collected at once; each holds a tower and its factors.
    threads : int
        Of the linear algebra of each.
    isolated : bool
        Whether every stage has a process of its own, else peaks of memory are of all stages so far.
    """

    tower: Architecture
    work: Path
    workers: int
    collectors: int
    threads: int
    isolated: bool = True


def pipeline(setting: Setting, tasks: int, store: str = "store", run: str = "cold") -> Report:
    """Merge ``tasks`` fine-tunes from files to a verified version that is loaded; continues what was killed.

    Parameters
    ----------
    store : str
        Folder of the store below ``setting.work``; what it holds is not done again.
    run : str
        Name of the records: those of a finished run are read again.
    """
    work = setting.work.absolute()
    write_inputs(work, setting.tower, tasks)
    recipe = write_recipe(work, tasks, store, ALPHA)
    records = work / "records" / f"{store}-{tasks}-{run}"
    records.mkdir(parents=True, exist_ok=True)
    stages = {name: _stage(setting, name, recipe, records / f"{name}.json") for name in STAGES}
    plan = load_plan(stages["inspect"].plan)
    merging = sum((stages[name].usage for name in MERGING), start=NOTHING)
    return {
        "tower": setting.tower if isinstance(setting.tower, str) else "a configuration",
        "tasks": tasks,
        "workers": setting.workers,
        "collectors": setting.collectors,
        "threads": setting.threads,
        "stages": {
            name: {**record.usage.as_json(), "parts": record.parts, "attempts": record.attempts}
            for name, record in stages.items()
        },
        "merging": merging.as_json(),
        "peak_rss": max(record.usage.peak_rss for record in stages.values()),
        **_sizes(plan),
    }


def _stage(setting: Setting, name: str, recipe: Path, path: Path) -> Record:
    if not read_record(path).finished:
        print(f"{recipe.stem}: {name} ...", flush=True)
        workers = {"merge": setting.workers, "collect": setting.collectors}.get(name, 1)
        if not setting.isolated:
            run_stage(name, recipe, path, workers)
            return read_record(path)
        command = [sys.executable, "-m", "benchmarks.scaling.stage", name, str(recipe), str(path)]
        done = subprocess.run(  # noqa: S603
            [*command, str(workers), str(setting.threads)],
            cwd=ROOT,
            env=environment(setting.threads),
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{recipe}: stage {name} ended with status {done.returncode}; see above.")
    return read_record(path)


def _sizes(plan: Plan) -> dict[str, Any]:
    """Bytes of the inputs and of the store by folder, and of the raw shifts that nobody stores."""
    folders = {child: _bytes(plan.store / child) for child in plan.store.children()}
    shifts = sum(_bytes(plan.shift_folder(task.name)) for task in plan.tasks)
    raw = {weight: _raw_shift(plan, weight) for weight in plan.decomposed if layer_kind(weight)}
    essential = sum(count for weight, count in raw.items() if merges_essentially(weight))
    return {
        "checkpoint_bytes": sum(Location.parse(task.facts.checkpoint.weights).size() for task in plan.tasks),
        "store_bytes": folders,
        "shift_bytes": shifts,
        "raw_shift_bytes": essential,
        "raw_shift_bytes_with_out_proj": sum(raw.values()),
        "shift_store_ratio": shifts / essential,
    }


def _raw_shift(plan: Plan, weight: str) -> int:
    """Bytes of the float32 shifts of a layer over all tasks."""
    vision = plan.architecture.model_cfg["vision_cfg"]
    tokens = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2 + 1
    width = int(vision["width"])
    ratio = float(vision.get("mlp_ratio", 4.0))
    factor = {"attn.in_proj": 3.0, "mlp.c_fc": ratio}.get(str(layer_kind(weight)), 1.0)
    return int(sum(len(task.facts.proxies) for task in plan.tasks) * tokens * math.ceil(width * factor) * 4)


def _bytes(folder: Location) -> int:
    return sum(count for count, _ in folder.entries().values())


def ninth(setting: Setting, tasks: int, rounds: int = 1) -> Report:
    """A merge with one fine-tune more on top of a merge of ``tasks``, beside a cold merge of all, in turns.

    Each round grows a copy of the same store and starts another from nothing. The runs told are those of the
    round whose ratio of CPU time is the median, of two in the middle the larger.
    """
    pipeline(setting, tasks, _GROWN, "before")
    found = sorted((_round(setting, tasks, number) for number in range(rounds)), key=_cpu_ratio)
    return {**found[rounds // 2], "cpu_ratios": [_cpu_ratio(one) for one in found]}


def _round(setting: Setting, tasks: int, number: int) -> Report:
    work = setting.work.absolute()
    grown = work / f"{_GROWN}-{number}"
    if not grown.exists():
        part = grown.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        # No file of a store is ever written again in place.
        shutil.copytree(work / _GROWN, part, copy_function=os.link)
        part.rename(grown)
    added = pipeline(setting, tasks + 1, grown.name, "added")
    cold = pipeline(setting, tasks + 1, f"store-cold-{number}")
    ratios = {f"{clock}_ratio": added["merging"][clock] / cold["merging"][clock] for clock in ("cpu", "wall")}
    return {"added": added, "cold": cold, **ratios}


def _cpu_ratio(one: Report) -> float:
    return float(one["cpu_ratio"])


def table(report: Report) -> list[str]:
    """The stages of a run as lines of Markdown."""
    rows = [
        [
            name if stage["attempts"] == 1 else f"{name} (in {stage['attempts']} attempts)",
            stage["parts"],
            *_cells(stage),
        ]
        for name, stage in report["stages"].items()
    ]
    merging = ["inputs to published version", "", *_cells(report["merging"])]
    store = ", ".join(f"{name} {size(count)}" for name, count in sorted(report["store_bytes"].items()))
    return [
        *markdown(["stage", "parts", "wall", "CPU", "peak memory", "read", "written"], [*rows, merging]),
        "",
        f"- {report['tower']}, {report['tasks']} fine-tunes ({size(report['checkpoint_bytes'])}), "
        f"{report['workers']} layer(s) and {report['collectors']} collection(s) at once, "
        f"{report['threads']} thread(s) each",
        f"- peak memory {size(report['peak_rss'])}; store: {store}",
        f"- shift store {size(report['shift_bytes'])}: {report['shift_store_ratio']:.3f} of the raw float32 "
        f"shifts of the layers that are decomposed in their essential subspace "
        f"({size(report['raw_shift_bytes'])})",
    ]


def ninth_table(report: Report) -> list[str]:
    """The two runs side by side, as lines of Markdown."""
    added, cold = report["added"], report["cold"]
    rows = [
        [name, *(seconds(run["stages"][name][clock]) for clock in ("wall", "cpu") for run in (added, cold))]
        for name in MERGING
    ]
    total = [seconds(run["merging"][clock]) for clock in ("wall", "cpu") for run in (added, cold)]
    heads = ["stage", "wall, one more", "wall, cold", "CPU, one more", "CPU, cold"]
    return [
        *markdown(heads, [*rows, ["all", *total]]),
        "",
        f"- {cold['tower']}: fine-tune {cold['tasks']} on top of {cold['tasks'] - 1} takes "
        f"**{report['cpu_ratio']:.2f}** of the CPU time of a cold merge of {cold['tasks']}, "
        f"{report['wall_ratio']:.2f} of its wall time; CPU time in all rounds "
        f"{', '.join(f'{ratio:.3f}' for ratio in report['cpu_ratios'])}",
    ]


def _cells(usage: Report) -> Sequence[str]:
    return [
        seconds(usage["wall"]),
        seconds(usage["cpu"]),
        *(size(usage[name]) for name in ("peak_rss", "read", "written")),
    ]
