"""What a merge shows of itself on standard error: bars on a terminal, else a line per part, or nothing."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

TASKS, LIBRARY = "esmerge", "esm_core"
"""Names of the loggers that tasks and the library write to; not imported, since that takes seconds."""


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[None]:
    """Show within what the tasks of this process report."""
    console = Console(stderr=True)
    if quiet:
        yield
    elif console.is_terminal:
        with bars(console):
            yield
    else:
        with lines():
            yield


@contextlib.contextmanager
def lines() -> Iterator[None]:
    """What tasks report, a line each with the seconds since the start."""
    started = time.monotonic()

    def show(record: logging.LogRecord) -> None:
        sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {record.getMessage()}\n")
        sys.stderr.flush()

    with _handled(show, TASKS, logging.INFO), _handled(show, LIBRARY, logging.INFO):
        yield


@contextlib.contextmanager
def bars(console: Console) -> Iterator[None]:
    """A bar per stage, with how many of its parts are done and for how long it runs; warnings above them."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as shown:
        start = shown.add_task("starting", total=1)
        stages: dict[str, TaskID] = {}

        def step(record: logging.LogRecord) -> None:
            stage, done, parts = record.step  # type: ignore[attr-defined]  # flows.stages gives it
            shown.update(start, completed=1)
            if stage not in stages:
                stages[stage] = shown.add_task(stage, total=parts)
            shown.update(stages[stage], completed=done, total=parts)

        def warn(record: logging.LogRecord) -> None:
            shown.console.print(record.getMessage(), markup=False, highlight=False)

        with (
            _handled(step, f"{TASKS}.steps", logging.DEBUG, alone=True),
            _handled(warn, TASKS, logging.WARNING),
            _handled(warn, LIBRARY, logging.WARNING),
        ):
            yield


@contextlib.contextmanager
def _handled(
    show: Callable[[logging.LogRecord], None], name: str, level: int, alone: bool = False
) -> Iterator[None]:
    """Give a logger a handler; ``alone``: what it hears reaches no other one, such as Prefect's."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record)

    logger, handler = logging.getLogger(name), Handler(level)
    before = logger.level, logger.propagate
    logger.setLevel(min(level, logging.INFO))
    logger.propagate = logger.propagate and not alone
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
