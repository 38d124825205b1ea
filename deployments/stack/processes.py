"""Starting, watching and stopping the processes of the stack."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.stack.environment import ROOT
from deployments.stack.keeper import MARK
from esm_core.errors import EsmergeError

_SHOWN_LINES = 20


class PartFailed(EsmergeError):
    """A part of the stack ended or did not become ready."""


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    Parameters
    ----------
    name : str
    command : tuple of str
    address : str
        What is printed once it is ready.
    is_ready : callable
        Whether it can be used; ``OSError`` means not yet.
    environment : mapping
        Variables for this part alone.
    restarts : bool
        Whether it is started again when it ends, rather than the stack stopped.
    """

    name: str
    command: tuple[str, ...]
    address: str
    is_ready: Callable[[], bool]
    environment: Mapping[str, str]
    restarts: bool = False


@dataclass(frozen=True)
class Child:
    """A part that was started."""

    part: Part
    process: "subprocess.Popen[bytes]"
    log: Path
    started: float

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    def ended(self) -> str | None:
        """How it ended, or ``None`` while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def failure(self, how: str) -> PartFailed:
        """An error that shows the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        shown = "\n".join(f"    {line}" for line in lines)
        return PartFailed(f"{self.part.name} {how}. The end of {self.log}:\n{shown}")


def start(part: Part, environment: Mapping[str, str], logs: Path) -> Child:
    """Start a part in a session of its own, so that Ctrl-C reaches the stack alone."""
    path = logs / f"{part.name.replace(' ', '-')}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  commands of deployments.stack.parts
            part.command,
            env={**environment, **part.environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Child(part, process, path, time.monotonic())


def wait_until_ready(child: Child, seconds: float) -> None:
    """Wait for a part that was just started.

    Raises
    ------
    PartFailed
        It ended, or was not ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        how = child.ended()
        if how is not None:
            raise child.failure(how)
        with contextlib.suppress(OSError):
            if child.part.is_ready():
                return
        if time.monotonic() > deadline:
            raise child.failure(f"was not ready after {seconds:.0f} s")
        time.sleep(0.2)


def stop(child: Child, seconds: float) -> None:
    """Ask a part to end; end it and what it started after ``seconds``."""
    with contextlib.suppress(ProcessLookupError):
        child.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.process.wait(seconds)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


@contextlib.contextmanager
def keeper() -> Iterator[dict[str, str]]:
    """Yields the variable that marks a process as the stack's; those are gone when the block has ended.

    They go also when this process is killed: the keeper is a process of its own that notices.
    """
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "deployments.stack.keeper", mark]
    process = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield {MARK: mark}
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
