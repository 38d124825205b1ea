"""One stage of a merge by plain calls of esm_core, in a process of its own, and what it used.

``python -m benchmarks.scaling.stage NAME RECIPE RECORD WORKERS THREADS`` writes the file RECORD after every
part (a task, a weight), so that a killed stage is continued: what it used before is added to the rest.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.plain_merge import plan_of
from benchmarks.scaling.machine import threads
from benchmarks.scaling.usage import NOTHING, Meter, Usage
from esm_core.artifacts import open_version, verify_version
from esm_core.layer_merges import merge_one
from esm_core.loading import load
from esm_core.plan import Plan, load_plan, save_plan
from esm_core.publish import publish
from esm_core.stage_collect import collect_task
from esm_core.static import finish

_METRICS: dict[str, Any] = {"accuracy": {}, "routing": {}, "routing_accuracy": {}}

Parts = list[Callable[[], Any]]


@dataclass(frozen=True)
class Record:
    """What a stage has used so far.

    Attributes
    ----------
    usage : Usage
        Of all attempts; each had to import everything again, which is not counted.
    attempts : int
        More than one where it was killed: what was being done then was done twice.
    parts, done : int
    plan : str
        URL of the plan, once there is one.
    """

    usage: Usage
    attempts: int
    parts: int
    done: int
    plan: str

    @property
    def finished(self) -> bool:
        return self.attempts > 0 and self.done == self.parts

    def write(self, path: Path) -> None:
        """Replace the file at once."""
        part = path.with_suffix(".tmp")
        part.write_text(json.dumps({**vars(self), "usage": self.usage.as_json()}, indent=1) + "\n")
        part.replace(path)


def read_record(path: Path) -> Record:
    """The record at a path; an empty one where there is none."""
    if not path.exists():
        return Record(NOTHING, 0, 0, 0, "")
    content = json.loads(path.read_text())
    return Record(**{**content, "usage": Usage(**content["usage"])})


def run_stage(name: str, recipe: Path, path: Path, workers: int) -> None:
    """Do all parts of a stage, so many at a time, and keep the record at ``path`` up to date.

    Raises
    ------
    KeyError
        There is no such stage.
    """
    before = read_record(path)
    meter = Meter()
    if name == "inspect":
        plan = plan_of(recipe)
        parts: Parts = [partial(save_plan, plan)]
    else:
        plan = load_plan(read_record(path.with_name("inspect.json")).plan)
        parts = STAGES[name](plan)

    def keep(done: int) -> None:
        url = save_plan(plan) if name == "inspect" else ""
        usage = before.usage + meter.usage()
        Record(usage, before.attempts + 1, len(parts), done, url).write(path)

    # One worker is this thread: a second one would only hide what an error is about.
    for count, _ in enumerate(_done(parts, workers), start=1):
        keep(count)


def _done(parts: Parts, workers: int) -> Iterable[Any]:
    if workers == 1:
        for part in parts:
            yield part()
        return
    with ThreadPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(part) for part in parts]):
            yield future.result()


def _collect(plan: Plan) -> Parts:
    return [partial(collect_task, plan, task.name) for task in plan.tasks]


def _merge(plan: Plan) -> Parts:
    return [partial(merge_one, plan, weight) for weight in plan.decomposed]


def _verify(plan: Plan) -> Parts:
    return [lambda: verify_version(open_version(plan.store, plan.recipe.name))]


STAGES: Mapping[str, Callable[[Plan], Parts]] = {
    "inspect": lambda plan: [],
    "collect": _collect,
    "merge": _merge,
    "finish": lambda plan: [partial(finish, plan)],
    "publish": lambda plan: [partial(publish, plan, _METRICS)],
    "verify": _verify,
    "load": lambda plan: [partial(load, plan.store.url, plan.recipe.name)],
}
"""Name → its parts, in the order of a merge. The first makes the plan."""


if __name__ == "__main__":
    stage, recipe, record, workers, count = sys.argv[1:]
    with threads(int(count)):
        run_stage(stage, Path(recipe), Path(record), int(workers))
