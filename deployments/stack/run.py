"""Running the stack: start every part, watch them, stop them in reverse order."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from deployments.stack import parts
from deployments.stack.environment import (
    BUCKET,
    ROOT,
    inherited,
    stack_environment,
    write_environment,
)
from deployments.stack.layout import Layout, check_ports
from deployments.stack.processes import Child, Part, PartFailed, keeper, start, stop, wait_until_ready
from esm_core.errors import EsmergeError, InputError
from esm_core.storage import Location

Say = Callable[[str], None]

_SECONDS_TO_START = 120.0
_SECONDS_TO_STOP = 12.0
_RESTARTED_AFTER = 20.0
"""A part that ends sooner after its start than this would end again."""


class Stopped(BaseException):
    """Somebody asked the stack to stop."""


def run_stack(layout: Layout, say: Say) -> None:
    """Run every part until SIGINT or SIGTERM, then stop them; nothing is left running, whatever happens.

    Parameters
    ----------
    layout : Layout
    say : callable
        Told each step, one line at a time.

    Raises
    ------
    InputError
        Another stack uses the state folder, or a port is taken.
    PartFailed
        A part ended for good.
    """
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.logs.mkdir(exist_ok=True)
    children: list[Child] = []
    with _only_one(layout), _stopped_by_signals() as deaf:
        check_ports(layout)
        values = stack_environment(layout, os.environ)
        write_environment(layout.state / "env", values)
        os.environ.update(values)
        with keeper() as mark:
            environment = {**inherited(os.environ), **values, **mark}
            try:
                _start_all(layout, environment, children, say)
                _watch(children, environment, layout, say)
            except Stopped:
                say("stopping")
            finally:
                deaf()
                _stop_all(children, say)


def _start_all(layout: Layout, environment: Mapping[str, str], children: list[Child], say: Say) -> None:
    say(f"state and logs in {layout.state}")
    if not layout.is_private:
        say(f"WARNING: whoever reaches {layout.host} can run code here: Dask asks nobody who it is")

    def begin(part: Part) -> Child:
        children.append(start(part, environment, layout.logs))
        return children[-1]

    def ready(child: Child) -> None:
        wait_until_ready(child, _SECONDS_TO_START)
        say(f"{child.part.name} ready: {child.part.address} ({child.age:.1f} s)")

    # The server takes longest: the others start meanwhile.
    storage, server = begin(parts.storage_part(layout)), begin(parts.prefect_server_part(layout))
    ready(begin(parts.scheduler_part(layout)))
    workers = [begin(part) for part in parts.worker_parts(layout)]
    ready(storage)
    has_recipe = _prepare_bucket(environment, storage)
    for child in (*workers, server):
        ready(child)
    # A schedule that has no recipe to look at would fail every few minutes.
    _register({**environment, "ESMERGE_ACTIVE": str(has_recipe).lower()}, layout, say)
    ready(begin(parts.prefect_worker_part(layout)))
    say("")
    say(f"Prefect   {layout.url('prefect')}/v2   (run a merge: Deployments, merge, Run, Custom run)")
    say(f"S3        {layout.url('s3')}   bucket s3://{BUCKET}")
    say(f"Dask      {layout.url('dask dashboard')}/info/main/workers.html")
    say(f"To use it from another terminal:    source {layout.state / 'env'}")
    say("To see it work, in another terminal: make stack-demo")
    say("Ctrl-C stops everything. What is in the bucket stays.")


def _prepare_bucket(environment: Mapping[str, str], storage: Child) -> bool:
    """Make the bucket; returns whether the recipe of the schedules is in it already."""
    bucket, recipe = Location(f"s3://{BUCKET}"), Location.parse(environment["ESMERGE_RECIPE"])
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            if not bucket.fs.exists(bucket.path):
                bucket.fs.mkdir(bucket.path)
            # The gateway answers before it has a volume to write to.
            (bucket / ".ready").write_bytes(b"")
            break
        except (EsmergeError, OSError) as error:
            if time.monotonic() > deadline or storage.ended() is not None:
                raise storage.failure(f"takes no files ({error})") from error
            time.sleep(0.3)
    return recipe.is_file()


def _register(environment: Mapping[str, str], layout: Layout, say: Say) -> None:
    started = time.monotonic()
    log = layout.logs / "register.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "deployments.register", "--end-lost-runs"]
        done = subprocess.run(  # noqa: S603
            command, env=dict(environment), cwd=ROOT, stdout=stream, stderr=stream, check=False
        )
    if done.returncode:
        tail = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-20:])
        raise PartFailed(f"The deployments could not be registered. The end of {log}:\n{tail}")
    say(f"deployments merge, watch and clean registered ({time.monotonic() - started:.1f} s)")


def _watch(children: list[Child], environment: Mapping[str, str], layout: Layout, say: Say) -> None:
    while True:
        for index, child in enumerate(children):
            how = child.ended()
            if how is None:
                continue
            if not child.part.restarts or child.age < _RESTARTED_AFTER:
                raise child.failure(how)
            say(f"{child.part.name} {how}; starting it again (log: {child.log})")
            children[index] = start(child.part, environment, layout.logs)
        time.sleep(0.5)


def _stop_all(children: list[Child], say: Say) -> None:
    deadline = time.monotonic() + _SECONDS_TO_STOP
    for child in reversed(children):
        was_running = child.ended() is None
        stop(child, max(0.5, min(3.0, deadline - time.monotonic())))
        if was_running:
            say(f"{child.part.name} stopped")


@contextlib.contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    with (layout.state / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise InputError(
                f"A stack is running with {layout.state} already (process {stream.read().strip()}). Stop it "
                "with Ctrl-C, or give another folder with --state and other ports with "
                "ESMERGE_STACK_PORT_BASE."
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Signals raise :class:`Stopped`, until the function that is yielded is called."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def raise_stopped(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    before = {number: signal.signal(number, raise_stopped) for number in wanted}

    def deaf() -> None:
        for number in wanted:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield deaf
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
