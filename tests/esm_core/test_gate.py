"""The gate of a recipe: tables in, a verdict and its reasons out."""

import re
from pathlib import Path
from typing import Any

import pytest
from versions import make_version

from esm_core.artifacts import Version
from esm_core.channels import history, promote, rollback
from esm_core.errors import IntegrityError
from esm_core.gate import apply_gate, judge
from esm_core.recipe import Recipe
from esm_core.settings import GateSettings
from esm_core.storage import Location

GATE = GateSettings(min_normalized=0.85, max_drop=0.01)


def measured(
    esm: dict[str, float],
    experts: float = 1.0,
    routed: dict[str, float] | None = None,
    tests: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The part of a manifest that the gate reads; every expert has the same accuracy."""
    accuracy = {"esm": esm, "experts": dict.fromkeys(esm, experts)}
    if routed is not None:
        accuracy["esm_pp_route"] = routed
    tasks = {task: {"test": {"sha256": (tests or {}).get(task, task)}} for task in esm}
    return {"version": 3, "metrics": {"accuracy": accuracy}, "inputs": {"tasks": tasks}}


TABLE = {
    "the first version, good": (measured({"a": 0.9, "b": 0.9}), None, True, "points to no version yet"),
    "exactly the least": (measured({"a": 0.8, "b": 0.9}), None, True, "85.00 % reaches 85.00 %"),
    "below the least": (measured({"a": 0.8, "b": 0.89}), None, False, "84.50 % is below the 85.00 %"),
    "over the experts' accuracy": (measured({"a": 0.6, "b": 0.6}, 0.7), None, True, "85.71 % reaches"),
    "routed experts are too bad": (
        measured({"a": 0.9}, routed={"a": 0.5}),
        None,
        False,
        r"ESM\+\+ \(routed\): normalised accuracy 50.00 % is below",
    ),
    "the static model is too bad": (measured({"a": 0.5}, routed={"a": 0.9}), None, False, "ESM: .* below"),
    "no worse": (
        measured({"a": 0.9, "b": 0.9}),
        measured({"a": 0.9, "b": 0.88}),
        True,
        "none of 2 tasks falls",
    ),
    "exactly the most": (measured({"a": 0.9}), measured({"a": 0.91}), True, "none of 1 tasks falls"),
    "one task is worse": (
        measured({"a": 0.95, "b": 0.88}),
        measured({"a": 0.9, "b": 0.9}),
        False,
        "b falls from 90.00 % in v000003 to 88.00 %",
    ),
    "routed is worse": (
        measured({"a": 0.9}, routed={"a": 0.9}),
        measured({"a": 0.9}, routed={"a": 0.95}),
        False,
        r"ESM\+\+ \(routed\): a falls from 95.00 %",
    ),
    "a task is gone": (
        measured({"a": 0.9}),
        measured({"a": 0.9, "b": 0.9}),
        False,
        "b is a task of v000003, but not of this version",
    ),
    "a task is new": (measured({"a": 0.9, "b": 0.9}), measured({"a": 0.9}), True, "none of 1 tasks falls"),
    "other test images": (
        measured({"a": 0.9, "b": 0.85}, tests={"b": "changed"}),
        measured({"a": 0.9, "b": 0.99}),
        True,
        "b has other test images than v000003: not compared",
    ),
    "experts are gone": (
        measured({"a": 0.9}),
        measured({"a": 0.9}, routed={"a": 0.95}),
        False,
        "v000003 has it, but this version does not",
    ),
    "experts are new": (measured({"a": 0.9}, routed={"a": 0.95}), measured({"a": 0.9}), True, "none of 1"),
    "nothing was measured": (
        {"metrics": {"accuracy": {}}, "inputs": {"tasks": {"a": {}}}},
        None,
        False,
        "No accuracy was measured",
    ),
    "nothing was measured before": (
        measured({"a": 0.9}),
        {"version": 3, "metrics": {"accuracy": {}}, "inputs": {"tasks": {"a": {"test": None}}}},
        True,
        "v000003 has no accuracy to compare with",
    ),
    "a test set was taken away": (
        {
            "metrics": {"accuracy": {"esm": {"a": 0.9}, "experts": {"a": 1.0}}},
            "inputs": {"tasks": {"a": {"test": {"sha256": "a"}}, "b": {"test": None}}},
        },
        measured({"a": 0.9, "b": 0.9}),
        False,
        "b was measured in v000003, but not here",
    ),
    "an expert that gets nothing right": (measured({"a": 0.0}, 0.0), None, False, "0.00 % is below"),
}


@pytest.mark.parametrize("case", TABLE)
def test_judge(case: str) -> None:
    candidate, current, promoted, said = TABLE[case]
    verdict = judge(candidate, current, GATE)
    assert verdict.promote is promoted, verdict.reasons
    assert re.search(said, " ".join(verdict.reasons)), verdict.reasons


# --- applied to a store ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "store"))


def recipe(store: Location, **gate: Any) -> Recipe:
    tasks = [{"name": name, "checkpoint": name, "proxy": name} for name in ("a", "b")]
    content = {"name": "pets", "store": store.url, "base": {"checkpoint": "base"}, "tasks": tasks}
    return Recipe.model_validate({**content, "promote_if": gate or None})


def publish(store: Location, accuracy: float) -> Version:
    content = measured({"a": accuracy, "b": accuracy})
    return make_version(store, metrics=content["metrics"], inputs=content["inputs"])


def versions(store: Location) -> list[tuple[str, int]]:
    return [(entry.action, entry.version) for entry in history(store, "pets", "stable")]


def test_a_version_that_is_no_worse_promotes_itself(store: Location) -> None:
    gated = recipe(store, min_normalized=0.85)
    assert apply_gate(store, gated, publish(store, 0.9)).promote
    assert not apply_gate(store, gated, publish(store, 0.88)).promote
    assert apply_gate(store, gated, publish(store, 0.895)).promote
    assert versions(store) == [("promote", 1), ("promote", 3)]
    last = history(store, "pets", "stable")[-1]
    assert last.by == "promote_if"
    assert last.note is not None
    assert "none of 2 tasks falls by more than 1.00 points against v000001" in last.note


def test_applying_the_gate_again_changes_nothing(store: Location) -> None:
    gated = recipe(store, min_normalized=0.85)
    version = publish(store, 0.9)
    for _ in range(3):
        assert apply_gate(store, gated, version).promote
    assert versions(store) == [("promote", 1)]


def test_a_version_that_was_rolled_back_stays_so(store: Location) -> None:
    gated = recipe(store, min_normalized=0.85)
    apply_gate(store, gated, publish(store, 0.9))
    better = publish(store, 0.95)
    apply_gate(store, gated, better)
    rollback(store, "pets", "stable")
    verdict = apply_gate(store, gated, better)
    assert not verdict.promote
    assert "moved away from v000002: only a person goes back" in verdict.reasons[0]
    promote(store, "pets", 2, "stable")
    assert apply_gate(store, gated, better).promote


def test_an_older_version_is_not_promoted_over_a_newer_one(store: Location) -> None:
    gated = recipe(store, min_normalized=0.85)
    old, new = publish(store, 0.9), publish(store, 0.9)
    assert apply_gate(store, gated, new).promote
    assert "newer than v000001" in apply_gate(store, gated, old).reasons[0]


def test_no_gate_promotes_nothing(store: Location) -> None:
    verdict = apply_gate(store, recipe(store), publish(store, 1.0))
    assert (verdict.promote, verdict.reasons) == (False, [])
    assert not (store / "artifacts/pets/channels").is_dir()


def test_a_damaged_version_is_not_promoted(store: Location) -> None:
    version = publish(store, 0.9)
    (version.folder / "model/a").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="model/a"):
        apply_gate(store, recipe(store, min_normalized=0.5), version)


def test_nothing_is_compared_with_a_version_that_cannot_be_read(store: Location) -> None:
    gated = recipe(store, min_normalized=0.85)
    first = publish(store, 0.9)
    apply_gate(store, gated, first)
    (first.folder / "manifest.json").write_bytes(b"{")
    assert "cannot be read" in apply_gate(store, gated, publish(store, 0.9)).reasons[0]
