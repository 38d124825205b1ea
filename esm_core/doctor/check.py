"""What looking at one thing has found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from esm_core.errors import EsmergeError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    status : str
        ``ok``; ``warn``, esmerge works but not as well as it could; ``fail``, something will not work.
    found : str
    do : str
        What to do about it; empty where there is nothing.
    """

    name: str
    status: Status
    found: str
    do: str = ""


def attempt(name: str, look: Callable[[], str], do: str) -> Check:
    """``ok`` with what ``look`` returns, or ``fail`` with the error of esmerge that it raises."""
    try:
        return Check(name, "ok", look())
    except EsmergeError as error:
        return Check(name, "fail", str(error), do)
