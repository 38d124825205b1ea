"""How the command ends: exit codes, and one message on standard error whatever went wrong.

With ``--json`` standard output holds one JSON document on errors too.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from esm_core.errors import EsmergeError, InputError
from esmerge.output import print_json

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = {
    DONE: "done, also where there was nothing to do",
    FAILED: "storage or a server could not be reached, a check of doctor failed, or an error in esmerge",
    BAD_INPUT: "bad input (arguments, recipe, checkpoint, images, store); nothing was published",
    INTERRUPTED: "Ctrl-C; the same command goes on from what is finished",
}
"""What the exit codes mean."""

_INTERRUPTED = (
    "interrupted. What is finished is kept and nothing is half published: run the same command again, and it "
    "resumes."
)


def guarded(run: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code.

    Parameters
    ----------
    run : callable
        Parses ``arguments`` and runs the command; returns None or an exit code.
    arguments : sequence of str
        They say whether JSON is wanted, also where they cannot be parsed.
    """
    as_json = "--json" in arguments
    try:
        code = int(run() or DONE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except EsmergeError as error:
        problems = error.problems if isinstance(error, InputError) else (str(error),)
        return _ended(type(error).__name__, str(error), problems, error.exit_code, as_json)
    except typer.TyperException as error:
        return _misused(error, as_json)
    except Exception as error:  # an error in esmerge: whoever mends it needs the traceback
        traceback.print_exc()
        if as_json:
            kind = type(error).__name__
            _print_error(kind, "an error in esmerge; its traceback is on standard error", (), FAILED)
        return FAILED
    return interrupted(as_json) if code == INTERRUPTED else code


def interrupted(as_json: bool) -> int:
    """Say that Ctrl-C ended the command, and what to do; returns the exit code."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")  # the cursor, which bars hide; a line of its own, after ^C
    code = _ended("Interrupted", _INTERRUPTED, (), INTERRUPTED, as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _misused(error: typer.TyperException, as_json: bool) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if not message:  # a group without a command: its help was printed
        return BAD_INPUT
    if context is not None:
        message += f"\n{context.get_usage()}\nSee: {context.command_path} --help"
    return _ended("UsageError", message, (error.format_message(),), BAD_INPUT, as_json)


def _ended(kind: str, message: str, problems: Sequence[str], code: int, as_json: bool) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"esmerge: {message}\n")
    if as_json:
        _print_error(kind, message, problems, code)
    return code


def _print_error(kind: str, message: str, problems: Sequence[str], code: int) -> None:
    content = {"kind": kind, "message": message, "problems": list(problems) or [message], "exit_code": code}
    print_json({"error": content})
