"""Where tasks run: threads of this process, or the workers of a Dask cluster. Chosen by the environment.

``ESMERGE_RUNNER`` is ``threads`` or ``dask``; unset it is ``dask`` where ``ESMERGE_DASK_ADDRESS`` names a
scheduler. ``ESMERGE_WORKERS`` is the number of threads; a Dask worker brings its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from esm_core.devices import check_devices
from esm_core.environment import parallel_tasks
from esm_core.errors import InputError
from esm_core.recipe import Recipe

_SECONDS_TO_CONNECT = 60


def task_runner(workers: int | None = None) -> TaskRunner[Any]:
    """The task runner that the environment asks for; nothing is connected yet.

    Parameters
    ----------
    workers : int, optional
        Threads of the ``threads`` runner; by default ``ESMERGE_WORKERS``, or one per core.

    Raises
    ------
    InputError
        An unknown runner, ``dask`` without an address, or without ``prefect-dask``; ``ESMERGE_WORKERS``
        is no number.
    """
    address = os.environ.get("ESMERGE_DASK_ADDRESS", "")
    kind = os.environ.get("ESMERGE_RUNNER") or ("dask" if address else "threads")
    if kind == "threads":
        return ThreadPoolTaskRunner(max_workers=workers or parallel_tasks())
    if kind != "dask":
        raise InputError(f"ESMERGE_RUNNER is {kind!r}; it must be threads or dask.")
    if not address:
        raise InputError("ESMERGE_RUNNER=dask needs ESMERGE_DASK_ADDRESS, such as tcp://scheduler:8786.")
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise InputError("The Dask runner needs prefect-dask: pip install 'esmerge[dask]'.") from error
    runner: TaskRunner[Any] = DaskTaskRunner(address=address, client_kwargs={"timeout": _SECONDS_TO_CONNECT})
    return runner


def check_workers(recipe: Recipe) -> None:
    """Within a flow: check that the recipe's devices are here, or that a Dask worker is there.

    Raises
    ------
    InputError
        On threads, a device that this machine has not. On Dask, no scheduler answers at the address,
        or no worker is connected to it within a minute.
    """
    runner: Any = _runner()
    if isinstance(runner, ThreadPoolTaskRunner):
        check_devices(recipe)
        return
    try:
        client = runner.client
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {runner.address}. Start one with `dask scheduler`, correct "
            "ESMERGE_DASK_ADDRESS, or unset it to run in this process."
        ) from error
    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
    except TimeoutError as error:
        raise InputError(
            f"No Dask worker is connected to {runner.address}. Start one with `dask worker {runner.address} "
            "--nthreads 1`, where esmerge is installed."
        ) from error


@contextmanager
def gpu_workers(device: str, preferred: bool = False) -> Iterator[None]:
    """What is submitted within goes to Dask workers that offer the resource ``GPU``.

    On threads it makes no difference. On Dask it is so where ``device`` is a CUDA device, or where it is
    ``preferred`` and a worker offers it. A worker that offers one GPU runs one such task at a time.

    Raises
    ------
    InputError
        ``device`` is a CUDA device and no worker offers ``GPU``: the tasks would wait for ever.
    """
    runner: Any = _runner()
    needed = device.startswith("cuda")
    if isinstance(runner, ThreadPoolTaskRunner) or not (needed or preferred):
        yield
        return
    workers = runner.client.scheduler_info()["workers"].values()
    if not any(worker.get("resources", {}).get("GPU") for worker in workers):
        if needed:
            raise InputError(
                f"The recipe asks for {device}, but no Dask worker of {runner.address} offers a GPU. Start "
                f"one with `dask worker {runner.address} --nthreads 1 --resources GPU=1`."
            )
        yield
        return
    import dask

    with dask.annotate(resources={"GPU": 1}):
        yield


def _runner() -> TaskRunner[Any]:
    context = FlowRunContext.get()
    assert context is not None
    return context.task_runner
