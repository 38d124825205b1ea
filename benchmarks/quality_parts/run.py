"""Running the benchmark: models, then every variant that is not kept yet, in two processes."""

import hashlib
import inspect
import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality_parts.kept import kept_json
from benchmarks.quality_parts.problem import Problem
from benchmarks.quality_parts.variant import Variant
from benchmarks.quality_parts.variants import VARIANTS

ALL = ("cyrillic", "digits", "fashion", "greek", "latin", "mnist", "photos", "textures")
TASKS = {8: ALL, 4: ALL[1::2]}
"""Tasks that are merged: with four, every second one by name."""

_ROOT = Path(__file__).parents[2]
_COMPUTING = ("lines", "problem", "proxies", "static", "variant")
"""Modules here that every result depends on, beside a variant's own."""

Results = dict[str, dict[str, Any]]
"""Column → :class:`variant.Figures` as JSON."""

Measured = dict[tuple[int, int], dict[str, Results]]
"""Seed and number of tasks → variant → its columns."""


@dataclass(frozen=True)
class Job:
    """Some tasks of one seed: what one process measures in one go."""

    seed: int
    tasks: int
    folder: Path
    work: Path
    variants: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"seed {self.seed}, T = {self.tasks}"


def measure(job: Job) -> dict[str, Results]:
    """Variant → its columns, read where they are kept."""
    torch.set_num_threads(1)
    problem = Problem(job.folder, TASKS[job.tasks], job.work / "inputs" / f"seed-{job.seed}")
    models = _models_digest(job.folder)
    found = {}
    for variant in (variant for variant in VARIANTS if variant.name in job.variants):

        def make(variant: Variant = variant) -> Results:
            print(f"{job.label}: {variant.name}", flush=True)
            return {column: figures.as_json() for column, figures in variant.measure(problem).items()}

        name = f"{variant.name}-{digest(variant, models)[:24]}.json"
        found[variant.name] = kept_json(job.work / "results" / f"{job.seed}-{job.tasks}" / name, make)
    return found


def measure_all(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Results]]]:
    """Every job with its results, as they are done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_ctrl_c_to_parent) as pool:
        try:
            futures = {pool.submit(measure, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # Ctrl-C too: else the pool goes on with what is left
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def digest(variant: Variant, models: str) -> str:
    """sha256 over what determines a variant's results: its fields, the code that computes, the models."""
    own = Path(inspect.getfile(type(variant)))
    here = Path(__file__).parent
    sources = {own, *(here / f"{name}.py" for name in _COMPUTING), *(_ROOT / "esm_core").rglob("*.py")}
    total = hashlib.sha256(models.encode())
    for path in sorted(sources):
        total.update(path.read_bytes())
    fields = {"kind": type(variant).__name__, **asdict(variant)}  # type: ignore[call-overload]
    total.update(json.dumps(fields, sort_keys=True, default=_described).encode())
    return total.hexdigest()


def _described(value: Any) -> Any:
    """A field of a variant that is no JSON: settings, or a function, which its source identifies."""
    if callable(value):
        return [value.__module__, value.__qualname__, hashlib.sha256(_source(value)).hexdigest()]
    return value.model_dump(mode="json")


def _source(function: Any) -> bytes:
    return Path(inspect.getfile(function)).read_bytes()


def _models_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "ready.json").read_bytes()).hexdigest()
