"""A version beside another one: accuracy per task, what became of it, and what went in differently."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from esm_core.artifacts import Manifest
from esm_core.gate import JUDGED
from esm_core.registry.changes import flat

SAME = 0.005
"""A task whose accuracy moved by no more than this, half a percentage point, counts as the same."""

_ROUNDING = 1e-9

_NOT_SETTINGS = {"name", "store", "base", "tasks", "tasks_from"}

Trend = Literal["better", "worse", "same", "not compared"]

Word = Literal["better", "worse", "mixed", "same", "not compared"]


@dataclass(frozen=True)
class TaskDelta:
    """The accuracy of one task in two versions, as fractions.

    Attributes
    ----------
    note : str
        Why the two are not compared; empty where they are.
    """

    task: str
    before: float | None
    after: float | None
    note: str = ""

    @property
    def change(self) -> float | None:
        """The difference, where the two can be compared."""
        if self.note or self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def trend(self) -> Trend:
        change = self.change
        if change is None:
            return "not compared"
        if abs(change) <= SAME + _ROUNDING:
            return "same"
        return "better" if change > 0 else "worse"


@dataclass(frozen=True)
class MethodDelta:
    """One method in two versions."""

    method: str
    tasks: list[TaskDelta]

    def count(self, trend: Trend) -> int:
        return sum(task.trend == trend for task in self.tasks)

    @property
    def change(self) -> float | None:
        """Mean difference over the tasks that are compared."""
        changes = [task.change for task in self.tasks if task.change is not None]
        return sum(changes) / len(changes) if changes else None

    @property
    def word(self) -> Word:
        """``mixed`` where some tasks are better and some worse."""
        better, worse = self.count("better"), self.count("worse")
        if self.change is None:
            return "not compared"
        if better and worse:
            return "mixed"
        return "better" if better else "worse" if worse else "same"


@dataclass(frozen=True)
class Change:
    """Something that went into two versions differently; None stands for nothing there."""

    area: Literal["task", "base", "settings", "libraries"]
    what: str
    before: str | None
    after: str | None


def accuracy_of(manifest: Manifest) -> dict[str, dict[str, float]]:
    """``accuracy[method][task]`` of a manifest; empty where nothing was measured."""
    found: dict[str, dict[str, float]] = (manifest.get("metrics") or {}).get("accuracy") or {}
    return found


def tasks_of(manifest: Manifest) -> dict[str, Any]:
    """The tasks among a manifest's inputs."""
    found: dict[str, Any] = (manifest.get("inputs") or {}).get("tasks") or {}
    return found


def compare_accuracy(before: Manifest, after: Manifest) -> list[MethodDelta]:
    """Every method that either version was measured with: those that consumers load come first.

    A task whose test images differ between the versions is shown, but not compared.
    """
    old, new = accuracy_of(before), accuracy_of(after)
    methods = sorted(set(old) | set(new), key=lambda m: (m not in JUDGED, m))
    return [
        MethodDelta(method, list(_task_deltas(before, after, old.get(method, {}), new.get(method, {}))))
        for method in methods
    ]


def judged(deltas: list[MethodDelta]) -> list[MethodDelta]:
    """The methods whose models consumers load."""
    return [delta for delta in deltas if delta.method in JUDGED]


def changes(before: Manifest, after: Manifest) -> list[Change]:
    """What went into two versions differently, by content: a file that only moved is no change."""
    return [
        *_task_changes(tasks_of(before), tasks_of(after)),
        *_base_changes(before, after),
        *_differences("settings", _settings(before), _settings(after)),
        *_differences("settings", _alpha(before), _alpha(after)),
        *_differences("libraries", before.get("libraries") or {}, after.get("libraries") or {}),
    ]


def _task_deltas(
    before: Manifest, after: Manifest, old: Mapping[str, float], new: Mapping[str, float]
) -> Iterator[TaskDelta]:
    for task in sorted(set(old) | set(new)):
        note = ""
        if task not in old:
            note = "measured in the newer one only"
        elif task not in new:
            note = "measured in the older one only"
        elif _test(before, task) != _test(after, task):
            note = "other test images"
        yield TaskDelta(task, old.get(task), new.get(task), note)


def _test(manifest: Manifest, task: str) -> Any:
    return _sha(tasks_of(manifest).get(task, {}).get("test"))


def _task_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for task in sorted(set(old) | set(new)):
        if task not in old or task not in new:
            yield Change(
                "task", task, None if task not in old else "there", None if task not in new else "there"
            )
            continue
        for what, before, after in (
            ("fine-tune", _weights(old[task]), _weights(new[task])),
            ("proxies", _proxies(old[task]), _proxies(new[task])),
            ("test images", _sha(old[task].get("test")), _sha(new[task].get("test"))),
            ("validation images", _sha(old[task].get("validation")), _sha(new[task].get("validation"))),
        ):
            if before != after:
                yield Change("task", f"{task}: {what}", before, after)


def _base_changes(before: Manifest, after: Manifest) -> Iterator[Change]:
    old, new = ((m.get("inputs") or {}).get("base") or {} for m in (before, after))
    if _weights(old) != _weights(new):
        yield Change("base", "weights", _weights(old), _weights(new))
    old, new = (m.get("architecture") or {} for m in (before, after))
    yield from _differences("base", flat({"architecture": old}), flat({"architecture": new}))


def _differences(area: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            yield Change(area, key, _shown(old.get(key)), _shown(new.get(key)))


def _settings(manifest: Manifest) -> dict[str, Any]:
    recipe = {k: v for k, v in (manifest.get("recipe") or {}).items() if k not in _NOT_SETTINGS}
    return flat(recipe) if recipe else {}


def _alpha(manifest: Manifest) -> dict[str, Any]:
    return {"alpha, as chosen": manifest["alpha"]} if "alpha" in manifest else {}


def _weights(facts: Mapping[str, Any]) -> str | None:
    checkpoint = facts.get("checkpoint") or {}
    return checkpoint.get("tensors_sha256") or checkpoint.get("sha256")


def _proxies(facts: Mapping[str, Any]) -> str | None:
    return _sha(facts.get("proxies"))


def _sha(facts: Mapping[str, Any] | None) -> str | None:
    return (facts or {}).get("sha256")


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(_shown(item) or "none" for item in value) or "none"
    if isinstance(value, dict):
        named = {key: item for key, item in sorted(value.items(), reverse=True) if item is not None}
        return " ".join(_shown(item) or "" for item in named.values())
    return json.dumps(value)
