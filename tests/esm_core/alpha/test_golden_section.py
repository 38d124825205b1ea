from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_core.alpha.golden_section import next_point

LOW, HIGH, TOLERANCE = 0.0, 4.0, 0.05


def search(function: Callable[[float], float]) -> dict[float, float]:
    """Every point the search evaluates, in order, with its value."""
    known: dict[float, float] = {}
    while (point := next_point(known, LOW, HIGH, TOLERANCE)) is not None:
        assert point not in known
        known[point] = function(point)
    return known


@given(peak=st.floats(LOW, HIGH), rise=st.floats(0.1, 10), fall=st.floats(0.1, 10))
def test_the_best_point_of_a_function_with_one_peak_is_near_the_peak(
    peak: float, rise: float, fall: float
) -> None:
    known = search(lambda x: -(rise if x < peak else fall) * abs(x - peak))
    best = max(known, key=lambda point: known[point])
    assert abs(best - peak) <= TOLERANCE


@given(st.functions(like=lambda x: ..., returns=st.floats(-1, 1), pure=True))
def test_any_function_is_searched_in_few_points_inside_the_interval(function: Callable[..., float]) -> None:
    known = search(function)
    assert len(known) <= 12
    for point in known:
        assert LOW <= point <= HIGH
        assert point == round(point, 4)


def test_a_search_continues_from_what_is_known() -> None:
    known = search(lambda x: -((x - 1.7) ** 2))
    points = list(known)
    for done in range(len(points)):
        part = {point: known[point] for point in points[:done]}
        assert next_point(part, LOW, HIGH, TOLERANCE) == points[done]
    assert next_point({**known, 3.9: 99.0}, LOW, HIGH, TOLERANCE) is None


def test_the_points_are_those_of_the_golden_section() -> None:
    first, second = list(search(lambda x: x))[:2]
    assert (first, second) == pytest.approx((1.5279, 2.4721))
