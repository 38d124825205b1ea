"""What spreading costs and brings: collection on two Dask workers beside one, the flow beside plain calls.

``python -m benchmarks.distributed --json PATH`` writes ViT-B/32-sized inputs and measures, in one run:

- the collection of eight fine-tunes on one Dask worker and on two, one thread each, in turns;
- a merge of two fine-tunes by plain calls of esm_core and by the command with one task at a time, in turns;
  and the same of a tiny merge, whose difference is the flow's fixed cost.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fine_tunes import TINY, VIT_B_32, write_fine_tunes

PLAIN = [sys.executable, "-m", "benchmarks.plain_merge"]
FLOW = [sys.executable, "-m", "esmerge", "merge", "--workers", "1"]
COLLECT = [sys.executable, "-m", "benchmarks.collect_flow"]


def cpu_and_wall(command: list[str], recipe: Path, **environment: str) -> tuple[float, float]:
    """CPU seconds of a command and all it started, and wall seconds; on a fresh store."""
    shutil.rmtree(recipe.parent / "store", ignore_errors=True)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    started = time.monotonic()
    process = subprocess.Popen([*command, str(recipe)], env=variables, stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started


def overhead(work: Path, rounds: int) -> dict[str, Any]:
    """The flow's cost beside plain calls: a fixed one, from a tiny merge, and what is left per cent."""
    rows = []
    large = write_fine_tunes(work / "large", VIT_B_32, 2)
    tiny = write_fine_tunes(work / "tiny", TINY, 2)
    for _ in range(rounds):
        row = {
            f"{size}_{kind}": cpu_and_wall(command, recipe)
            for size, recipe in (("tiny", tiny), ("large", large))
            for kind, command in (("plain", PLAIN), ("flow", FLOW))
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    result: dict[str, Any] = {"rounds": rows}
    for index, clock in enumerate(("cpu", "wall")):
        fixed = statistics.median(row["tiny_flow"][index] - row["tiny_plain"][index] for row in rows)
        shares = [(row["large_flow"][index] - fixed) / row["large_plain"][index] - 1 for row in rows]
        result[clock] = {"fixed_seconds": fixed, "overhead": statistics.median(shares)}
    return result


def collection(work: Path, rounds: int) -> dict[str, Any]:
    """Wall seconds of the collecting stage on one and on two workers, in turns, and the ratio."""
    recipe = write_fine_tunes(work / "eight", VIT_B_32, 8)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for count in (1, 2) * rounds:
        with workers(count) as address:
            shutil.rmtree(recipe.parent / "store", ignore_errors=True)
            variables = {**os.environ, "ESMERGE_DASK_ADDRESS": address}
            done = subprocess.run(  # noqa: S603
                [*COLLECT, str(recipe)], env=variables, check=True, capture_output=True, text=True
            )
            seconds[count].append(float(done.stdout.split()[-1]))
            print(f"{count} worker(s): {seconds[count][-1]:.1f} s", flush=True)
    ratios = [two / one for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {"one_worker": seconds[1], "two_workers": seconds[2], "ratio": statistics.median(ratios)}


@contextlib.contextmanager
def workers(count: int) -> Iterator[str]:
    """A Dask scheduler with so many workers of one thread; yields its address."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=count, threads_per_worker=1, dashboard_address=None, resources={"GPU": 1}
    ) as cluster:
        yield cluster.scheduler_address


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for inputs, kept; else a temporary one")
    parser.add_argument("--only", choices=["collection", "overhead"])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        parts = {"collection": collection, "overhead": overhead}
        chosen = [arguments.only] if arguments.only else list(parts)
        found = {name: parts[name](work, arguments.rounds) for name in chosen}
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
