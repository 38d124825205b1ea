"""The gate: whether a published version is good enough to be promoted without a person looking at it."""

from dataclasses import dataclass
from typing import Any

from esm_core.artifacts import Manifest, Version, artifact_folder, open_version
from esm_core.channel_log import read_log
from esm_core.channels import promote
from esm_core.claims import version_label
from esm_core.errors import InputError
from esm_core.model_card import METHOD_NAMES, normalised
from esm_core.recipe import Recipe
from esm_core.settings import GateSettings
from esm_core.storage import Location

JUDGED = ("esm", "esm_pp_route")
"""What consumers load: the static model, and the one with routed experts where there is one."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """Whether a version is promoted (or is where the channel points already), and why or why not.

    Attributes
    ----------
    reasons : list of str
        Sentences; empty where the recipe has no gate.
    """

    promote: bool
    reasons: list[str]


def judge(candidate: Manifest, current: Manifest | None, gate: GateSettings) -> Verdict:
    """Compare a version's accuracy with what the gate asks and with the version the channel points to.

    Parameters
    ----------
    candidate, current : dict
        Manifests; ``current`` is None where the channel points nowhere yet.
    """
    accuracy = _accuracy(candidate)
    if "esm" not in accuracy or "experts" not in accuracy:
        return Verdict(False, ["No accuracy was measured: give tasks labelled test images and a head."])
    against, said = [], []
    for method in (m for m in JUDGED if m in accuracy):
        value = normalised(accuracy, [method])[0]
        text = f"{METHOD_NAMES[method]}: normalised accuracy {100 * value:.2f} %"
        if value < gate.min_normalized - _ROUNDING:
            against.append(f"{text} is below the {100 * gate.min_normalized:.2f} % that the gate asks for.")
        else:
            said.append(f"{text} reaches {100 * gate.min_normalized:.2f} %.")
    if current is None:
        said.append(f"{gate.channel} points to no version yet, so there is nothing to compare with.")
    else:
        worse, notes = _compare(candidate, current, gate)
        against, said = against + worse, said + notes
    return Verdict(not against, against + said)


def apply_gate(store: Location, recipe: Recipe, version: Version) -> Verdict:
    """Judge a published version by the recipe's gate and promote it if it is good.

    Calling it again changes nothing. A version that the channel has pointed to before is never promoted
    again: somebody rolled it back.

    Raises
    ------
    IntegrityError
        A file of the version, or the channel's log, is damaged.
    """
    gate = recipe.promote_if
    if gate is None:
        return Verdict(False, [])
    entries = read_log(artifact_folder(store, recipe.name), gate.channel)
    current = None
    if entries:
        number, said = entries[-1].version, f"{gate.channel} points to {version_label(entries[-1].version)}"
        if number == version.number:
            return Verdict(True, [f"{said} already."])
        if version.number in {entry.version for entry in entries}:
            return Verdict(
                False, [f"{said}, and was moved away from {version.label}: only a person goes back."]
            )
        if number > version.number:
            return Verdict(False, [f"{said}, which is newer than {version.label}."])
        current = _manifest(store, recipe.name, number)
        if current is None:
            return Verdict(False, [f"{said}, which cannot be read, so there is nothing to compare with."])
    verdict = judge(version.manifest, current, gate)
    if verdict.promote:
        note = " ".join(verdict.reasons)
        promote(store, recipe.name, version.number, gate.channel, note=note, by="promote_if")
    return verdict


def verdict_line(recipe: Recipe, version: Version, verdict: Verdict) -> str:
    """What became of a version at its recipe's gate, and why, in one line for people."""
    assert recipe.promote_if is not None
    done = "is on" if verdict.promote else "was not promoted to"
    return f"{recipe.name} {version.label} {done} {recipe.promote_if.channel}: {' '.join(verdict.reasons)}"


def _manifest(store: Location, name: str, number: int) -> Manifest | None:
    try:
        return open_version(store, name, number).manifest
    except InputError:
        return None


def _compare(candidate: Manifest, current: Manifest, gate: GateSettings) -> tuple[list[str], list[str]]:
    """What speaks against the candidate, and what else is to be said."""
    against, notes = [], []
    label = version_label(int(current["version"]))
    new, old = _accuracy(candidate), _accuracy(current)
    missing = sorted(set(_tasks(current)) - set(_tasks(candidate)))
    against += [f"{task} is a task of {label}, but not of this version." for task in missing]
    if not any(method in old for method in JUDGED):
        notes.append(f"{label} has no accuracy to compare with.")
    for method in (m for m in JUDGED if m in old):
        title = METHOD_NAMES[method]
        if method not in new:
            against.append(f"{title}: {label} has it, but this version does not.")
            continue
        tasks = sorted(set(old[method]) - set(missing))
        unmeasured = [task for task in tasks if task not in new[method]]
        against += [f"{title}: {task} was measured in {label}, but not here." for task in unmeasured]
        changed = [t for t in tasks if t not in unmeasured and _test(candidate, t) != _test(current, t)]
        notes += [f"{title}: {task} has other test images than {label}: not compared." for task in changed]
        compared = [task for task in tasks if task not in unmeasured and task not in changed]
        falls = [t for t in compared if old[method][t] - new[method][t] > gate.max_drop + _ROUNDING]
        points = f"more than {100 * gate.max_drop:.2f} points"
        for task in falls:
            change = f"from {100 * old[method][task]:.2f} % in {label} to {100 * new[method][task]:.2f} %"
            against.append(f"{title}: {task} falls {change}, by {points}.")
        if compared and not falls:
            notes.append(f"{title}: none of {len(compared)} tasks falls by {points} against {label}.")
    return against, notes


def _accuracy(manifest: Manifest) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = manifest.get("metrics", {}).get("accuracy", {})
    return found


def _tasks(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest.get("inputs", {}).get("tasks", {})
    return found


def _test(manifest: Manifest, task: str) -> Any:
    return (_tasks(manifest).get(task, {}).get("test") or {}).get("sha256")
