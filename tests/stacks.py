"""A stack that is really started, in a folder and on ports of its own."""

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import s3fs
import yaml
from services import Outcome
from world import World

from deployments.stack.environment import BUCKET, ROOT, inherited, read_environment
from deployments.stack.http import ask
from deployments.stack.layout import PORTS, Layout

STARTED = "Ctrl-C stops everything"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE = 600.0
"""Seconds that a merge of a tiny world may take: 30 on an idle machine, ten times as many were seen in CI."""


@dataclass(frozen=True)
class Stack:
    """A running stack."""

    process: "subprocess.Popen[bytes]"
    layout: Layout
    output: Path

    @property
    def api(self) -> str:
        return f"{self.layout.url('prefect')}/api"

    @property
    def environment(self) -> dict[str, str]:
        """Of somebody who uses the stack."""
        return inherited(os.environ) | read_environment(self.layout.state / "env")

    @property
    def files(self) -> s3fs.S3FileSystem:
        """Its bucket, with its own credentials."""
        known = read_environment(self.layout.state / "env")
        return s3fs.S3FileSystem(
            key=known["AWS_ACCESS_KEY_ID"],
            secret=known["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=known["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
        )

    def said(self) -> str:
        return self.output.read_text()

    def tree(self) -> list[psutil.Process]:
        """Every process below the stack's."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those with all of the words in their command line."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                if all(any(word in part for part in process.cmdline()) for word in words):
                    found.append(process)
        return found

    def upload(self, world: World, prefix: str) -> str:
        """Lay a world into the bucket; returns the URL of its recipe."""
        files = self.files
        files.put(str(world.root) + "/", f"{BUCKET}/{prefix}/", recursive=True)
        files.pipe_file(f"{BUCKET}/{prefix}/recipe.yaml", yaml.safe_dump(world.recipe).encode())
        return f"s3://{BUCKET}/{prefix}/recipe.yaml"

    def manifest(self, prefix: str, name: str = "pets", version: str = "v000001") -> dict[str, Any]:
        """The manifest of a version in the store of an uploaded world."""
        path = f"{BUCKET}/{prefix}/store/artifacts/{name}/{version}/manifest.json"
        found: dict[str, Any] = json.loads(self.files.cat_file(path))
        return found

    def model_digest(self, prefix: str) -> str:
        """sha256 of the published model file."""
        path = f"{BUCKET}/{prefix}/store/artifacts/pets/v000001/model/open_clip_model.safetensors"
        return hashlib.sha256(self.files.cat_file(path)).hexdigest()

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment; returns its id."""
        found = ask(f"{self.api}/deployments/name/{deployment}")
        run = ask(f"{self.api}/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(f"{self.api}/flow_runs/{run}")
        return found

    def logs(self, run: str) -> list[str]:
        page = 200  # the most that a server gives at once
        chosen = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": page}
        lines: list[str] = []
        while True:
            found = ask(f"{self.api}/logs/filter", {**chosen, "offset": len(lines)})
            lines += [str(log["message"]) for log in found]
            if len(found) < page:
                return lines

    def completes(self, run: str) -> None:
        """Wait until a run has ended, and it has to be well."""
        ended = self.wait(run, PATIENCE)["state"]
        assert ended["type"] == "COMPLETED", f"{ended['message']}\n" + "\n".join(self.logs(run)[-40:])

    def wait(self, run: str, seconds: float, *states: str) -> dict[str, Any]:
        """Wait until a run is in one of the states: any final one by default."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            nonlocal found
            found = self.run(run)
            return found["state_type"] in (states or FINAL)

        wait_for(reached, seconds, lambda: f"{found.get('state')}\n" + "\n".join(self.logs(run)))
        return found


def wait_for(reached: Callable[[], bool], seconds: float, why: Callable[[], str] = str) -> None:
    """Wait until something is so; a server that does not answer meanwhile is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if reached():
                return
        assert time.monotonic() < deadline, f"not after {seconds} s: {why()}"
        time.sleep(0.3)


def free_base() -> int:
    """The first of as many free ports as a stack needs, below those that the kernel hands out."""
    while True:
        base = random.randrange(18000, 32000, len(PORTS))
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(base, base + len(PORTS)):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base


def stack_command(state: Path, base: int) -> dict[str, Any]:
    """Arguments for :class:`subprocess.Popen`."""
    environment = {**os.environ, "ESMERGE_STACK_PORT_BASE": str(base)}
    for name in ("ESMERGE_STACK_HOST", "ESMERGE_RECIPE", "ESMERGE_STORE"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "deployments.stack", "--state", str(state)]
    return {"args": command, "cwd": ROOT, "env": environment}


def refused_stack(state: Path, base: int) -> Outcome:
    """Start a stack that is expected to end at once."""
    done = subprocess.run(
        **stack_command(state, base), capture_output=True, text=True, check=False, timeout=60
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def running_stack(state: Path, base: int) -> Iterator[Stack]:
    """A stack that has said it is ready; killed at the end if it still runs."""
    output = state.with_name(state.name + ".out")
    with output.open("wb") as stream:
        process = subprocess.Popen(**stack_command(state, base), stdout=stream, stderr=stream)
    stack = Stack(process, Layout(state, base=base), output)
    try:
        wait_for(lambda: STARTED in stack.said() or process.poll() is not None, 300, stack.said)
        assert STARTED in stack.said(), stack.said()
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole session."""
    with running_stack(tmp_path_factory.mktemp("stack") / "state", free_base()) as found:
        yield found
