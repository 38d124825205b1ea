"""Ends what a stack started once the stack is gone, however it went.

``python -m deployments.stack.keeper MARK`` waits until its standard input closes, which a SIGKILL of the
stack does too, and kills every process that carries the mark in its environment: the parts, and what they
started in turn.
"""

import contextlib
import os
import sys

import psutil

MARK = "ESMERGE_STACK_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this user whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def kill_marked(mark: str) -> None:
    """Kill them, and those that they started meanwhile."""
    while processes := marked(mark):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=1)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    kill_marked(sys.argv[1])
