"""The command in a process of its own that need not import everything again: forked from one that has."""

import importlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from moments import before_call

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["esmerge.cli", "flows.merge"])

Moment = tuple[str, str, int]
"""Module, function, and at which of its calls something happens."""


def start_command(output: Path, *arguments: object, dies: Moment | None = None) -> BaseProcess:
    """Start ``esmerge`` with the environment of now; all it writes goes to ``output``.

    With ``dies`` it is killed by SIGKILL just before that call.
    """
    words = ["esmerge", *map(str, arguments)]
    process = _FORKS.Process(target=_run, args=(output, dict(os.environ), words, dies), daemon=True)
    process.start()
    return process


def _run(output: Path, environment: dict[str, str], words: list[str], dies: Moment | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if dies:
        _die_at(*dies)
    from esmerge.cli import main

    sys.argv = words
    main()


def _die_at(module_name: str, function: str, calls: int) -> None:
    module = importlib.import_module(module_name)
    dying = before_call(getattr(module, function), calls, lambda: os.kill(os.getpid(), signal.SIGKILL))
    setattr(module, function, dying)
