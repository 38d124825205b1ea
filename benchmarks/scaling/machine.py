"""The machine a measurement ran on, and how fast it multiplies matrices."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[2]
"""Of this checkout."""

_SIDE = 1536
_SECONDS = 1.0


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and every other library of linear algebra have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def environment(count: int) -> dict[str, str]:
    """Of a process that is to have so many threads and this checkout's code, whatever is installed.

    Huge pages as ``esmerge merge`` has them, unless they are turned off.
    """
    limits = {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "MKL", "OPENBLAS")}
    return {"THP_MEM_ALLOC_ENABLE": "1", **os.environ, **limits, "PYTHONPATH": str(ROOT)}


def machine_facts() -> dict[str, Any]:
    """CPU, cores, memory, versions, commit and load, JSON values."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "torch": str(torch.__version__),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def product_rates() -> dict[str, float]:
    """Operations per second of a matrix product by dtype, with the threads that are set."""
    return {"float32": _rate(torch.float32), "float64": _rate(torch.float64)}


def _rate(dtype: torch.dtype) -> float:
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype)
    result = torch.empty_like(matrix)
    torch.mm(matrix, matrix, out=result)
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=result)
        best = min(best, time.perf_counter() - start)
    return float(2 * _SIDE**3 / best)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
