"""What a garbage collection keeps and deletes, and why."""

import re
from dataclasses import dataclass, field
from datetime import timedelta

from esm_core.errors import InputError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Policy:
    """What is kept although nothing points to it.

    Attributes
    ----------
    keep : int
        Newest versions of every artifact, at least one.
    min_age : timedelta
        Whatever was changed, or current, less than this ago.
    """

    keep: int = 5
    min_age: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class Garbage:
    """A file or folder that goes.

    Attributes
    ----------
    path : str
        Relative to the store.
    bytes : int
    reason : str
    first : tuple of str
        What is deleted before the rest, in this order, relative to the store: so that a deletion that is
        interrupted leaves nothing that looks whole.
    unless : str, optional
        The rest stays if this file is there by then: a publisher that was taken for dead has committed.
    """

    path: str
    bytes: int
    reason: str
    first: tuple[str, ...] = ()
    unless: str | None = None


@dataclass(frozen=True)
class Kept:
    """A file or folder that stays, and why."""

    path: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What a collection found.

    Attributes
    ----------
    notes : list of str
        What could not be read or deleted, and what is known of it.
    retired : dict of str to int
        Artifact → the highest version number that goes; it is never given again.
    failed : list of str
        What could not be deleted, and why.
    """

    garbage: list[Garbage] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    retired: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def span(time: timedelta) -> str:
    """``7 days``, ``12 hours``, ``90 seconds``: the largest unit that divides it."""
    seconds = round(time.total_seconds())
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % unit == 0 and (seconds or unit == 1):
            count = seconds // unit
            return f"{count} {name}{'' if count == 1 else 's'}"
    raise AssertionError("unreachable")


def parse_age(text: str) -> timedelta:
    """``7d``, ``12h``, ``0s``; :class:`InputError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)([smhdw])", text)
    if match is None:
        raise InputError(f"{text!r} is not an age: write a number and a unit, such as 7d, 12h, 30m or 0s.")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})
