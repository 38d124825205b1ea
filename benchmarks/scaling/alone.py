"""The merge of one layer of each type as a worker does it, in a process of its own: what memory it takes.

``python -m benchmarks.scaling.alone FOLDER TOWER TASKS THREADS`` reads what was prepared, prints JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.scaling import ours
from benchmarks.scaling.machine import ROOT, environment, threads
from benchmarks.scaling.problem import LayerProblem, layer_problems
from benchmarks.scaling.usage import Meter, resident
from esm_core.checkpoints import SafetensorsFile, TensorInfo, write_safetensors
from esm_core.methods.esm import merge_layer
from esm_core.storage import Location


def prepare(folder: Location, problem: LayerProblem) -> None:
    """Write every task's update of a layer as a checkpoint, ``{kind}/{task}.safetensors``."""
    for task, update in enumerate(problem.updates):
        info = {problem.weight: TensorInfo(tuple(update.shape), update.dtype)}
        write_safetensors(folder / problem.kind / f"{task}.safetensors", info, lambda _, u=update: u)  # type: ignore[misc]


def peak_alone(folder: Location, tower: str, tasks: int, count: int) -> dict[str, Any]:
    """``peak_rss``, ``rss_before`` (after imports) and seconds of the merge, in a new process.

    Parameters
    ----------
    folder : Location
        Where :func:`prepare` wrote the updates and ``compare_layer`` the factors.
    tower : str
    tasks : int
    count : int
        Threads.
    """
    command = [sys.executable, "-m", __name__, folder.path, tower, str(tasks), str(count)]
    done = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment(count), check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _merge(folder: Location, problem: LayerProblem) -> None:
    def update(task: int) -> Tensor:
        return SafetensorsFile(folder / problem.kind / f"{task}.safetensors").read(problem.weight)

    def pairs() -> Iterator[tuple[Tensor, ours.Factor]]:
        for task in range(problem.tasks):
            yield update(task).double(), ours.stored_shift(folder / problem.kind / str(task), problem)

    if problem.essential:
        merge_layer(pairs(), problem.tasks, ours.SETTINGS)
    else:
        ours.fuse([ours.decompose(problem, update(task), None) for task in range(problem.tasks)])


def main() -> None:
    """Merge, and print what it used."""
    folder, tower, tasks, count = sys.argv[1:]
    before = resident()
    with threads(int(count)):
        meter = Meter()
        for problem in layer_problems(tower, int(tasks)):
            _merge(Location.parse(str(Path(folder))), problem)
        print(json.dumps({**meter.usage().as_json(), "rss_before": before}))


if __name__ == "__main__":
    main()
