"""Golden-section search for the maximum of a function of one variable (Kiefer, 1953)."""

from collections.abc import Mapping

_RATIO = (5**0.5 - 1) / 2
_DECIMALS = 4


def next_point(known: Mapping[float, float], low: float, high: float, tolerance: float) -> float | None:
    """Where to evaluate next, given the values that are known; ``None`` once the search has ended.

    The search has no state: it is followed from its start through ``known``, so it can be stopped and
    continued at any time. The points are the same in every run, since they are rounded to four decimals.

    Parameters
    ----------
    known : mapping of point to value
        What has been evaluated; points that the search does not ask for are ignored.
    low, high : float
        The interval that holds the maximum.
    tolerance : float
        The search ends when the interval that is left is no longer than this; at least 0.001.

    Notes
    -----
    For a function that rises and then falls, the best known point is then within ``tolerance`` of the
    maximum. For any other function it is a good point, perhaps not the best.
    """
    left, right = _inner(low, high)
    while high - low > tolerance:
        for point in (left, right):
            if point not in known:
                return point
        # The inner point that stays is taken over as it is: computed again it could differ by a rounding.
        if known[left] >= known[right]:
            high, right = right, left
            left, _ = _inner(low, high)
        else:
            low, left = left, right
            _, right = _inner(low, high)
    return None


def _inner(low: float, high: float) -> tuple[float, float]:
    step = _RATIO * (high - low)
    return round(high - step, _DECIMALS), round(low + step, _DECIMALS)
