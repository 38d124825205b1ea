"""Making everything the demo needs, keeping what an interrupted run has finished."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import torch

from demo import writing
from demo.data import FASHION_MNIST, Task, load_tasks
from demo.splits import Sizes, Split
from demo.training import Report, Schedule, accuracy, blur_head, fine_tune, train_base

SIZES = Sizes(train=2400, val=300, test=600)
SCHEDULE = Schedule(base_epochs=4, base_rate=1e-3, tune_epochs=6, tune_rate=2e-4, head_noise=1.2)
QUICK_SIZES = Sizes(train=320, val=64, test=128)
QUICK_SCHEDULE = Schedule(base_epochs=2, base_rate=1e-3, tune_epochs=2, tune_rate=2e-4, head_noise=1.2)

READY = "ready.json"
STARTED = "started.json"
MADE = (READY, "recipe.yaml", "images", "heads", "experts", "base.safetensors")
"""Removed in this order: what is partly removed must not look ready."""


def prepare(out: Path, sizes: Sizes, schedule: Schedule, seed: int) -> None:
    """Write everything below ``out``; what an interrupted run of the same settings finished is kept."""
    started = time.monotonic()

    def report(message: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {message}", flush=True)

    settings = _settings(sizes, schedule, seed)
    if _holds(out / READY, settings):
        report(f"the demo's models are in {out}")
        return
    if not _holds(out / STARTED, settings):
        if not (out / STARTED).exists() and any((out / name).exists() for name in MADE):
            raise SystemExit(f"{out} holds files the demo did not make; give --out another folder")
        _remove(out)
        writing.write_atomically(out / STARTED, settings.encode())
    tasks = load_tasks(seed, sizes)
    report(f"{len(tasks)} tasks of real images: {', '.join(task.name for task in tasks)}")
    for task in tasks:
        writing.write_images(out / "images" / task.name, task)
    writing.write_config(out / "open_clip_config.json")
    _make_base(out, tasks, schedule, seed, report)
    _make_experts(out, tasks, schedule, seed, report)
    writing.write_recipe(out / "recipe.yaml", [task.name for task in tasks])
    writing.write_atomically(out / READY, settings.encode())
    report(f"ready: {out}/recipe.yaml")


def _make_base(out: Path, tasks: list[Task], schedule: Schedule, seed: int, report: Report) -> None:
    path = out / "base.safetensors"
    if path.exists():
        return
    # One thread: matrices are small, and a second one is slower than none when the machine is shared.
    torch.set_num_threads(1)
    report("training the base on all tasks together")
    splits = {task.name: task.train for task in tasks}
    classes = {task.name: len(task.classes) for task in tasks}
    base, heads = train_base(splits, classes, schedule, seed, report)
    blurred = {
        name: blur_head(head, schedule.head_noise, 1000 * seed + index)
        for index, (name, head) in enumerate(sorted(heads.items()))
    }
    writing.write_heads(out / "heads", blurred)
    writing.write_tower(path, base)


def _make_experts(out: Path, tasks: list[Task], schedule: Schedule, seed: int, report: Report) -> None:
    todo = [task for task in tasks if not writing.expert_path(out / "experts", task.name).exists()]
    report(f"fine-tuning on each of {len(todo)} tasks, {os.cpu_count()} at a time")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_leave_ctrl_c_to_parent) as pool:
        try:
            futures = {
                pool.submit(_make_expert, out, task.name, task.train, task.val, schedule, seed): task.name
                for task in todo
            }
            for done, future in enumerate(as_completed(futures), start=1):
                before, after = future.result()
                change = f"{100 * before:.1f} % → {100 * after:.1f} %"
                report(f"{done}/{len(todo)} {futures[future]}: validation accuracy {change}")
        except BaseException:  # Ctrl-C too: else the pool goes on with the tasks that are left
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_expert(
    out: Path, name: str, train: Split, val: Split, schedule: Schedule, seed: int
) -> tuple[float, float]:
    torch.set_num_threads(1)
    base = writing.read_tensors(out / "base.safetensors")
    head = writing.read_tensors(out / "heads" / f"{name}.safetensors")["weight"]
    tuned = fine_tune(base, head, train, schedule, seed)
    writing.write_expert(writing.expert_path(out / "experts", name), name, tuned)
    return accuracy(base, head, val), accuracy(tuned, head, val)


def _settings(sizes: Sizes, schedule: Schedule, seed: int) -> str:
    """Everything that determines the files: settings, the data at hand, and this package's own code."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    content = {
        "code": sources.hexdigest(),
        "fashion_mnist": FASHION_MNIST.is_dir(),
        "sizes": asdict(sizes),
        "schedule": asdict(schedule),
        "seed": seed,
    }
    return json.dumps(content, sort_keys=True)


def _holds(path: Path, content: str) -> bool:
    return path.is_file() and path.read_text() == content


def _remove(out: Path) -> None:
    for name in MADE:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
