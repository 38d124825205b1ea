"""Threads, devices and disk of this machine."""

import os
import shutil
import tempfile

from esm_core.doctor.check import Check, attempt
from esm_core.environment import parallel_tasks, threads_per_task
from esm_core.errors import InputError
from esm_core.recipe import Recipe

LITTLE_DISK, NO_DISK = 5e9, 1e8
"""Free bytes of the temporary folder below which a check warns, and fails."""


def check_threads() -> Check:
    """``ESMERGE_WORKERS`` and ``ESMERGE_THREADS`` against the cores this process may use."""
    try:
        tasks, threads = parallel_tasks(), threads_per_task()
    except InputError as error:
        return Check("threads", "fail", str(error), "Correct the variable, or unset it.")
    cores, pool = _cores(), os.environ.get("OMP_NUM_THREADS", "")
    found = f"tasks at a time: {tasks}, threads of each: {threads}, cores: {cores}, OMP_NUM_THREADS={pool}"
    if tasks * threads > cores:
        do = f"Set ESMERGE_WORKERS and ESMERGE_THREADS so that their product is at most {cores}."
        return Check("threads", "warn", f"{found}: more threads than cores slow each other down", do)
    if pool != str(threads):
        do = f"Set OMP_NUM_THREADS={threads}, or unset it: esmerge then does."
        return Check("threads", "warn", f"{found}: pools of another size than a task's", do)
    return Check("threads", "ok", found)


def check_torch(recipe: Recipe | None) -> Check:
    """The devices torch can use here, and whether those that a recipe names are among them."""
    import torch

    from esm_core.devices import check_devices

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} ({facts.name}, {facts.total_memory / 1e9:.0f} GB)")
    if torch.backends.mps.is_available():
        devices.append("mps")

    def look() -> str:
        if recipe is not None:
            check_devices(recipe)
        return f"torch {torch.__version__}: {', '.join(devices)}"

    return attempt("devices", look, "Change the device in the recipe, or run where there is one.")


def check_temporary() -> Check:
    """Room in the temporary folder: PyTorch checkpoints from S3 are downloaded there, one per worker."""
    name, do = "temporary folder", "Free space there, or set TMPDIR to a folder on another disk."
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"esmerge")
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(name, "fail", f"cannot be written: {error}", do)
    found = f"{folder}: {free / 1e9:.1f} GB free"
    if free < NO_DISK:
        return Check(name, "fail", found, do)
    if free < LITTLE_DISK:
        return Check(name, "warn", f"{found}; a PyTorch checkpoint on S3 must fit, once per worker", do)
    return Check(name, "ok", found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
