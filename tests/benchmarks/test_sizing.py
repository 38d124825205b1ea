"""The sizing table of the operations guide is what the code computes."""

from pathlib import Path

import pytest

from benchmarks.sizing import TASKS, TOWERS, recipe_of, row, table
from esm_core.architecture import load_architecture, tower_shapes
from esm_core.preview import estimates
from esm_core.storage import Location

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
RATE = 22.7e9
"""Operations per second that the guide states."""
SHARE = 0.82
"""Of a measured merge, what is estimated, as the guide states."""


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], dict[str, float]]:
    return {(tower, tasks): row(tower, tasks, RATE) for tower in TOWERS for tasks in TASKS}


def test_the_guide_shows_what_the_code_computes(rows: dict[tuple[str, int], dict[str, float]]) -> None:
    assert "\n".join(table(list(rows.values()))) in OPERATIONS.read_text()


def test_a_merge_takes_about_as_long_as_estimated() -> None:
    measured, rate = 67 + 138, 56e9  # CPU seconds of collecting and merging, benchmarks/RESULTS.md
    shapes = tower_shapes(load_architecture("ViT-B-32", Location.parse("/")))
    recipe = recipe_of(9, 32).model_copy(update={"experts": None, "alpha": 1.0})
    estimated = estimates(recipe, shapes, rate)["core_seconds"]
    assert estimated / measured == pytest.approx(SHARE, abs=0.01), "as docs/operations.md says"


def test_more_tasks_take_more_but_no_more_memory_or_updates(
    rows: dict[tuple[str, int], dict[str, float]],
) -> None:
    few, many = rows["ViT-L-14", 4], rows["ViT-L-14", 20]
    for kind in ("fine_tune_bytes", "shift_store_bytes", "expert_bytes", "search_core_seconds"):
        assert many[kind] == pytest.approx(5 * few[kind])
    assert many["merge_store_bytes"] == few["merge_store_bytes"]
    assert few["core_seconds"] < many["core_seconds"] < 5 * few["core_seconds"]
