"""Something that happens just before a function is called for the n-th time."""

from collections.abc import Callable
from typing import Any


def before_call(real: Callable[..., Any], calls: int, act: Callable[[], object]) -> Callable[..., Any]:
    """``real``, but ``act`` happens when that is called for the ``calls``-th time."""
    left = [calls]

    def wrapped(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            act()
        return real(*arguments)

    return wrapped
