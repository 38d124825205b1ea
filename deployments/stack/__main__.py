"""Start the platform on this machine, without containers, and stop it with Ctrl-C."""

import argparse
import os
import sys
import time
from pathlib import Path

from deployments.stack.layout import DEFAULT_PORT_BASE, Layout
from deployments.stack.run import Stopped, run_stack
from esm_core.errors import EsmergeError, InputError


def main() -> int:
    """Parse the arguments and run until stopped; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".stack"), help="folder kept between runs")
    arguments = parser.parse_args()
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}" if line else "", flush=True)

    try:
        run_stack(_layout(arguments.state), say)
    except Stopped:
        return 0
    except EsmergeError as error:
        print(f"esmerge stack: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _layout(state: Path) -> Layout:
    base = os.environ.get("ESMERGE_STACK_PORT_BASE", str(DEFAULT_PORT_BASE))
    if not base.isdecimal():
        raise InputError(f"ESMERGE_STACK_PORT_BASE is {base!r}; give a number.")
    host = os.environ.get("ESMERGE_STACK_HOST", "127.0.0.1")
    return Layout(state.resolve(), host, int(base))


if __name__ == "__main__":
    sys.exit(main())
