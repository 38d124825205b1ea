"""Numbers that people set in the environment."""

import os

from esm_core.errors import InputError


def number_from_environment(name: str, default: int) -> int:
    """The whole number in the variable ``name``, 1 or more; ``default`` where it is unset or empty.

    Raises
    ------
    InputError
        It holds anything else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise InputError(f"{name} is {text!r}; it must be a whole number, 1 or more. Correct it or unset it.")
    return int(text)


def threads_per_task() -> int:
    """Threads of one task: ``ESMERGE_THREADS``, 1 where it is not set."""
    return number_from_environment("ESMERGE_THREADS", 1)


def parallel_tasks() -> int:
    """Tasks at a time in one process: ``ESMERGE_WORKERS``, one per core where it is not set."""
    return number_from_environment("ESMERGE_WORKERS", os.cpu_count() or 1)
