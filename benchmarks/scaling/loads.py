"""Loading a published version beside a bare load of the same weights, in turns, in a process of its own.

``python -m benchmarks.scaling.loads STORE NAME ROUNDS THREADS`` prints JSON.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file

from benchmarks.scaling.machine import ROOT, environment, threads
from benchmarks.scaling.tables import markdown
from esm_core.artifacts import open_version
from esm_core.loading import load
from esm_core.static import WEIGHTS_NAME
from esm_core.storage import Location

Report = dict[str, Any]

_PAGE = 4096


def load_ratios(store: Path, name: str, rounds: int, count: int) -> Report:
    """Median seconds of every way to load, and how many times ``esmerge`` takes each of the bare ones.

    Parameters
    ----------
    store : Path
        Holds the published version ``latest`` of ``name``; its pages are in the system's cache.
    count : int
        Threads.
    """
    command = [sys.executable, "-m", __name__, str(store.absolute()), name, str(rounds), str(count)]
    done = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment(count), check=True, stdout=subprocess.PIPE, text=True
    )
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


def measure(store: Path, name: str, rounds: int) -> Report:
    """As :func:`load_ratios`, in this process."""
    weights = open_version(Location.parse(str(store)), name).folder / f"model/{WEIGHTS_NAME}"
    path = weights.path
    ways: dict[str, Callable[[], Any]] = {
        "mapped": lambda: load_file(path),
        "touched": lambda: _touch(load_file(path)),
        "read": lambda: _read(load_file(path)),
        "copied": lambda: load_bytes(Path(path).read_bytes()),
        "esmerge": lambda: load(str(store), name),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, call in ways.items():
            start = time.perf_counter()
            loaded = call()
            taken = time.perf_counter() - start
            # Memory is given back outside of the time, and before the next one asks for its own.
            del loaded
            if turn:
                times[way].append(taken)
    medians = {way: statistics.median(own) for way, own in times.items()}
    return {
        "bytes": weights.size(),
        "rounds": rounds,
        "seconds": medians,
        "ratios": {way: medians["esmerge"] / medians[way] for way in ways if way != "esmerge"},
    }


def _touch(tensors: dict[str, torch.Tensor]) -> float:
    """Read one byte of every page."""
    return float(sum(int(t.reshape(-1).view(torch.uint8)[::_PAGE].sum()) for t in tensors.values()))


def _read(tensors: dict[str, torch.Tensor]) -> float:
    """Read every byte, as fast as memory gives them."""
    return sum(float(tensor.sum()) for tensor in tensors.values())


def table(report: Report) -> list[str]:
    """The report as lines of Markdown."""
    names = {
        "mapped": "`load_file`: mapped, nothing read",
        "touched": "`load_file`, one byte of every page",
        "read": "`load_file`, every byte",
        "copied": "`safetensors.torch.load` of the file's bytes",
        "esmerge": "`esm_core.load`: verified and constructed",
    }
    rows = [
        [text, f"{1e3 * report['seconds'][way]:.0f} ms", _times(report["ratios"].get(way))]
        for way, text in names.items()
    ]
    return markdown(["way", "median", "esmerge takes"], rows)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


if __name__ == "__main__":
    place, artifact, number, limit = sys.argv[1:]
    with threads(int(limit)):
        print(json.dumps(measure(Path(place), artifact, int(number))))
