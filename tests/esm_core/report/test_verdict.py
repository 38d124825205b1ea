from reports import manifest

from esm_core.artifacts import Manifest
from esm_core.report.verdict import changes, compare_accuracy, judged


def with_accuracy(esm: dict[str, float], **changed: object) -> Manifest:
    return manifest(tuple(esm), metrics={"accuracy": {"esm": esm}}, **changed)


def words(before: dict[str, float], after: dict[str, float]) -> list[str]:
    return [d.word for d in compare_accuracy(with_accuracy(before), with_accuracy(after))]


def test_better_worse_same_and_mixed_are_counted_by_task() -> None:
    assert words({"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.5}) == ["better"]
    assert words({"a": 0.5, "b": 0.5}, {"a": 0.4, "b": 0.5}) == ["worse"]
    assert words({"a": 0.5, "b": 0.5}, {"a": 0.505, "b": 0.495}) == ["same"]
    assert words({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.4}) == ["mixed"]


def test_the_mean_change_is_over_the_tasks_that_are_compared() -> None:
    (delta,) = compare_accuracy(with_accuracy({"a": 0.5, "b": 0.5}), with_accuracy({"a": 0.6, "c": 0.9}))
    assert delta.change is not None
    assert round(delta.change, 9) == 0.1
    notes = {task.task: task.note for task in delta.tasks}
    assert notes == {"a": "", "b": "measured in the older one only", "c": "measured in the newer one only"}


def test_other_test_images_are_not_compared() -> None:
    before, after = with_accuracy({"a": 0.5, "b": 0.5}), with_accuracy({"a": 0.9, "b": 0.5})
    after["inputs"]["tasks"]["a"]["test"]["sha256"] = "9" * 64
    (delta,) = compare_accuracy(before, after)
    assert [(t.task, t.trend, t.note) for t in delta.tasks] == [
        ("a", "not compared", "other test images"),
        ("b", "same", ""),
    ]
    assert delta.word == "same"


def test_what_consumers_load_is_judged_and_comes_first() -> None:
    deltas = compare_accuracy(manifest(), manifest())
    assert [d.method for d in deltas][:2] == ["esm", "esm_pp_route"]
    assert [d.method for d in judged(deltas)] == ["esm", "esm_pp_route"]


def test_equal_manifests_have_no_change() -> None:
    assert changes(manifest(), manifest()) == []


def test_changes_are_named_by_content() -> None:
    before, after = manifest(("a", "b")), manifest(("b", "c"))
    after["inputs"]["tasks"]["b"]["checkpoint"]["tensors_sha256"] = "9" * 64
    after["inputs"]["base"]["checkpoint"]["url"] = "s3://elsewhere/base.safetensors"
    after["recipe"] |= {"seed": 3, "compare": [{"method": "average", "coefficient": None}]}
    after["alpha"] = 2.0
    after["libraries"]["torch"] = "3.0"
    found = {(c.area, c.what): (c.before, c.after) for c in changes(before, after)}
    assert found == {
        ("task", "a"): ("there", None),
        ("task", "c"): (None, "there"),
        ("task", "b: fine-tune"): ("e" * 64, "9" * 64),
        ("settings", "seed"): ("0", "3"),
        ("settings", "compare"): ("none", "average"),
        ("settings", "alpha, as chosen"): ("1.5", "2.0"),
        ("libraries", "torch"): ("2.9.0", "3.0"),
    }


def test_manifests_of_other_tools_compare_too() -> None:
    assert changes({}, {}) == []
    assert compare_accuracy({}, {}) == []
    assert {c.area for c in changes({}, manifest())} == {"task", "base", "settings", "libraries"}
