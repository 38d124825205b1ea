"""What is different from the newest version, and a name for a set of inputs: cheap, no content is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from esm_core.artifacts import Manifest
from esm_core.checkpoints import resolve_checkpoint
from esm_core.recipe import BaseSpec, Recipe, TaskSpec
from esm_core.stages import digest_of
from esm_core.storage import Location

_PATHS = ("proxy", "validation", "test")
_NOT_SETTINGS = {"name", "store", "base", "tasks", "tasks_from"}


def changes(recipe: Recipe, newest: Manifest | None) -> list[str]:
    """How a recipe differs from the one that the newest version was made from, in sentences for people.

    Parameters
    ----------
    recipe : Recipe
        Resolved.
    newest : Manifest, optional
        Of the newest version; None where nothing is published.

    Returns
    -------
    list of str
        Empty where there is no difference. A file that was written again is named, though its content may
        be the same: whether a merge would publish the same is known from the plan only.
    """
    if newest is None:
        return ["no version is published yet"]
    try:
        before = Recipe.model_validate(newest["recipe"])
    except ValidationError:
        return ["the newest version was made by another release of esmerge: its recipe cannot be compared"]
    inputs = newest.get("inputs", {})
    found = list(_base_changes(before.base, recipe.base, inputs.get("base", {})))
    old, new = ({spec.name: spec for spec in tasks} for tasks in (before.tasks, recipe.tasks))
    for name in sorted(set(old) | set(new)):
        if name not in old:
            found.append(f"{name}: new")
        elif name not in new:
            found.append(f"{name}: no longer there")
        else:
            found.extend(_task_changes(old[name], new[name], inputs.get("tasks", {}).get(name, {})))
    settings = list(_settings(before, recipe))
    return [*found, f"settings changed: {', '.join(settings)}"] if settings else found


def inputs_digest(recipe: Recipe) -> str:
    """sha256 (hex) of a resolved recipe and the fingerprints of all it names: "this set of inputs".

    Raises
    ------
    InputError
        A file is missing; names it.
    """
    base = recipe.base
    fingerprints = {"base": resolve_checkpoint(Location.parse(base.checkpoint)).fingerprint()}
    if base.architecture is not None and "://" in base.architecture:
        fingerprints["architecture"] = Location.parse(base.architecture).fingerprint()
    for spec in recipe.tasks:
        for field in ("checkpoint", "head"):
            url = getattr(spec, field)
            if url is not None:
                file = resolve_checkpoint(Location.parse(url))
                fingerprints[f"{spec.name}.{field}"] = file.fingerprint()
        for field in _PATHS:
            url = getattr(spec, field)
            if url is not None:
                fingerprints[f"{spec.name}.{field}"] = Location.parse(url).fingerprint()
    return digest_of("inputs", {"recipe": recipe.model_dump(mode="json"), "files": fingerprints})


def _base_changes(old: BaseSpec, new: BaseSpec, facts: Mapping[str, Any]) -> Iterator[str]:
    for field in ("architecture", "checkpoint", "activation"):
        if getattr(old, field) != getattr(new, field):
            yield f"base: {field} {_shown(getattr(old, field))} -> {_shown(getattr(new, field))}"
    if old.checkpoint == new.checkpoint and _was_written(facts.get("checkpoint")):
        yield f"base: {new.checkpoint} was written again"


def _task_changes(old: TaskSpec, new: TaskSpec, facts: Mapping[str, Any]) -> Iterator[str]:
    if new.landed is not None and old.landed != new.landed:
        yield f"{new.name}: {old.landed or old.checkpoint} -> {new.landed}"
        return
    for field in ("checkpoint", *_PATHS, "head", "zero_shot", "activation", "sha256"):
        if getattr(old, field) != getattr(new, field):
            yield f"{new.name}: {field} {_shown(getattr(old, field))} -> {_shown(getattr(new, field))}"
    if old.checkpoint == new.checkpoint and _was_written(facts.get("checkpoint")):
        yield f"{new.name}: {new.checkpoint} was written again"


def _was_written(facts: Mapping[str, Any] | None) -> bool:
    """Whether an input has another fingerprint than the manifest noted; older manifests noted none."""
    if not facts or "fingerprint" not in facts:
        return False
    file = Location.parse(facts["url"])
    return not (file.is_file() or file.is_dir()) or file.fingerprint() != facts["fingerprint"]


def _settings(old: Recipe, new: Recipe) -> Iterator[str]:
    before, after = (flat(recipe.model_dump(mode="json", exclude=_NOT_SETTINGS)) for recipe in (old, new))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key} {_shown(before.get(key))} -> {_shown(after.get(key))}"


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """The values of nested mappings by their path, such as ``method.rank``."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{key}.{name}".strip(".")).items()}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
