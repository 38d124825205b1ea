import pytest
from pydantic import ValidationError

from esm_core import MergeSettings


def test_the_defaults_are_the_published_configuration() -> None:
    assert MergeSettings().model_dump() == {
        "eigen_exponent": 0.15,
        "scaling_exponent": 2.0,
        "rank": None,
        "inter_task": True,
        "inter_dimension": True,
        "inter_layer": True,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"eigen_exponent": -0.1},
        {"eigen_exponent": float("nan")},
        {"scaling_exponent": 9},
        {"rank": 0},
        {"rank": 2.5},
        {"inter_task": "sometimes"},
        {"inter_tasks": False},
    ],
    ids=str,
)
def test_settings_out_of_range_and_unknown_ones_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MergeSettings(**wrong)


def test_settings_cannot_change_after_they_were_made() -> None:
    with pytest.raises(ValidationError):
        MergeSettings().rank = 3  # type: ignore[misc]
