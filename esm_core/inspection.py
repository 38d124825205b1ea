"""Inspection: what only contents can tell of each input: digests, NaN, updates that are zero.

Noted in the store's ledger, so an unchanged input is read once. What is noted is the content; the
fingerprint it was found under is added when it is looked up, and an input that changes while it is read
is refused and not noted.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from esm_core.checkpoints import (
    VisionCheckpoint,
    open_checkpoint,
    resolve_checkpoint,
    text_checkpoint,
    vision_checkpoint,
    write_safetensors,
)
from esm_core.errors import InputError, raise_together
from esm_core.extensions import Group, codes
from esm_core.facts import CheckpointFacts, TaskFacts
from esm_core.images import choose_samples, open_images, samples_digest
from esm_core.recipe import Recipe, TaskSpec
from esm_core.storage import Location
from esm_core.store import recall, remember
from esm_core.weights import read_weight

Lookup = Callable[[Location, str, dict[str, Any], Callable[[], dict[str, Any]]], dict[str, Any]]


def inspect_base(recipe: Recipe) -> CheckpointFacts:
    """Digest the base and check that every weight is finite.

    Raises
    ------
    InputError
        NaN or Inf in a weight of the vision tower.
    """
    return _base_facts(recipe, remember)


def inspect_task(recipe: Recipe, name: str) -> TaskFacts:
    """Digest everything of one task and check its update.

    Raises
    ------
    InputError
        NaN or Inf in a weight, an update that is zero everywhere, unreadable images or head.
    """
    return _task_facts(recipe, _spec(recipe, name), remember)


class NotInspected(Exception):
    """The ledger does not know an input (it is new or has changed)."""


def recall_base(recipe: Recipe) -> CheckpointFacts:
    """:func:`inspect_base` from the ledger alone; :class:`NotInspected` where it is silent."""
    return _base_facts(recipe, _recall_only)


def recall_task(recipe: Recipe, name: str) -> TaskFacts:
    """:func:`inspect_task` from the ledger alone; :class:`NotInspected` where it is silent."""
    return _task_facts(recipe, _spec(recipe, name), _recall_only)


def _spec(recipe: Recipe, name: str) -> TaskSpec:
    return next(spec for spec in recipe.tasks if spec.name == name)


def _recall_only(
    store: Location, kind: str, key: dict[str, Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    known = recall(store, kind, key)
    if known is None:
        raise NotInspected(kind)
    return known


def _base_facts(recipe: Recipe, lookup: Lookup) -> CheckpointFacts:
    store = Location.parse(recipe.store)
    location = resolve_checkpoint(Location.parse(recipe.base.checkpoint))

    def compute() -> dict[str, Any]:
        checkpoint = open_checkpoint(location)
        base, text = vision_checkpoint(checkpoint), text_checkpoint(checkpoint)
        broken = [name for name in text.tensors if not torch.isfinite(text.read(name)).all()]
        raise_together(f"the base: {location}: NaN or Inf in {name}." for name in broken)
        return _checked(base, base, store, "the base")

    before = location.fingerprint()
    key = _read_by("esmerge.layouts", {"file": before})
    known = lookup(store, "base", key, _steady("the base", {location: before}, compute))
    return CheckpointFacts.model_validate({**known, "fingerprint": before})


def _task_facts(recipe: Recipe, spec: TaskSpec, lookup: Lookup) -> TaskFacts:
    store = Location.parse(recipe.store)
    location = resolve_checkpoint(Location.parse(spec.checkpoint))
    origin = resolve_checkpoint(Location.parse(recipe.base.checkpoint))

    def checkpoint() -> dict[str, Any]:
        tuned, base = vision_checkpoint(open_checkpoint(location)), vision_checkpoint(open_checkpoint(origin))
        return _checked(tuned, base, store, f"task {spec.name}")

    before = {location: location.fingerprint(), origin: origin.fingerprint()}
    key = _read_by("esmerge.layouts", {"file": before[location], "base": before[origin]})
    known = lookup(store, "task", key, _steady(f"task {spec.name}", before, checkpoint))
    _check_digest(spec, location, known["sha256"])
    facts: dict[str, Any] = {
        "name": spec.name,
        "checkpoint": {**known, "fingerprint": before[location]},
        **_proxy_facts(recipe, spec, lookup),
    }
    for field in ("test", "validation"):
        url = getattr(spec, field)
        if url is not None:
            facts[field] = _images_facts(store, spec.name, Location.parse(url), lookup)
    if spec.head is not None:
        facts["head_sha256"] = _head_facts(store, spec, Location.parse(spec.head), lookup)["sha256"]
    return TaskFacts.model_validate(facts)


def _read_by(group: Group, key: dict[str, Any]) -> dict[str, Any]:
    """The key of what is read of files, where other distributions have a say in what they mean."""
    found = codes(group)
    return {**key, "code": found} if found else key


def _steady(
    who: str, before: Mapping[Location, str], compute: Callable[[], dict[str, Any]]
) -> Callable[[], dict[str, Any]]:
    """``compute``, which fails where a file has another fingerprint once it is done."""

    def steadily() -> dict[str, Any]:
        facts = compute()
        for location, fingerprint in before.items():
            if location.fingerprint() != fingerprint:
                raise InputError(f"{who}: {location}: changed while it was read. Run again.")
        return facts

    return steadily


def _check_digest(spec: TaskSpec, location: Location, found: str) -> None:
    if spec.sha256 in (None, found):
        return
    asked = f"sha256 {spec.sha256} was expected, {found} was found"
    if spec.landed is None:
        raise InputError(f"task {spec.name}: {location}: is not the checkpoint the recipe names: {asked}.")
    raise InputError(
        f"task {spec.name}: {location}: was replaced under the same version {spec.landed}: {asked}. Land it "
        "again as a new version."
    )


def _proxy_facts(recipe: Recipe, spec: TaskSpec, lookup: Lookup) -> dict[str, Any]:
    source = open_images(Location.parse(spec.proxy))
    store = Location.parse(recipe.store)
    files = source.location.fingerprint()
    place = _read_by("esmerge.images", {"files": files})

    def choose(count: int) -> dict[str, Any]:
        chosen = choose_samples(source.sample_ids(), count, recipe.seed, source.location)
        return {"proxies": chosen, "proxies_sha256": samples_digest(source.read(chosen))}

    def steadily(count: int) -> Callable[[], dict[str, Any]]:
        return _steady(f"task {spec.name}", {source.location: files}, lambda: choose(count))

    key = {**place, "samples": recipe.samples, "seed": recipe.seed}
    facts = lookup(store, "proxies", key, steadily(recipe.samples))
    if recipe.experts is None:
        return facts
    most = recipe.experts.proxies
    key = {**place, "at_most": most, "seed": recipe.seed}
    # Two at least: one to be left out when routers are compared.
    routing = lookup(store, "proxies", key, steadily(max(2, min(most, len(source.sample_ids())))))
    return facts | {f"routing_{name}": value for name, value in routing.items()}


def _head_facts(store: Location, spec: TaskSpec, location: Location, lookup: Lookup) -> dict[str, Any]:
    file = resolve_checkpoint(location)
    before = file.fingerprint()

    def compute() -> dict[str, Any]:
        head = open_checkpoint(file)
        broken = [name for name in head.tensors if not torch.isfinite(head.read(name)).all()]
        raise_together(f"head: {file}: NaN or Inf in {name}; export it again." for name in broken)
        return {"sha256": file.sha256()}

    return lookup(store, "head", {"file": before}, _steady(f"task {spec.name}", {file: before}, compute))


def _images_facts(store: Location, name: str, location: Location, lookup: Lookup) -> dict[str, Any]:
    before = location.fingerprint()

    def compute() -> dict[str, Any]:
        source = open_images(location)
        ids = source.sample_ids()
        return {"url": location.url, "count": len(ids), "sha256": samples_digest(source.read_all())}

    key = _read_by("esmerge.images", {"files": before})
    return lookup(store, "images", key, _steady(f"task {name}", {location: before}, compute))


def _checked(tuned: VisionCheckpoint, base: VisionCheckpoint, store: Location, label: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    broken, changed = [], False
    for name in sorted(base.tensors):
        tensor = read_weight(tuned, base, name)
        if not torch.isfinite(tensor).all():
            broken.append(name)
        changed = changed or not torch.equal(tensor, base.read(name))
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    problems = []
    if broken:
        problems.append(
            f"{label}: {tuned.location}: NaN or Inf in {len(broken)} weight(s): {', '.join(broken[:3])}. "
            "The checkpoint is broken; export it again."
        )
    elif tuned is not base and not changed:
        problems.append(
            f"{label}: {tuned.location}: its update is zero: the vision tower equals the base's. "
            "Give the fine-tuned checkpoint."
        )
    raise_together(problems)
    sha256 = tuned.location.sha256()
    return {
        "url": tuned.location.url,
        "weights": _readable(tuned, sha256 if tuned.code is None else digest.hexdigest(), store).url,
        "sha256": sha256,
        "tensors_sha256": digest.hexdigest(),
        "bytes": tuned.location.size(),
        "layout": tuned.layout,
        "borrows_projection": tuned.borrows_projection,
        "code": tuned.code.identity if tuned.code is not None else None,
    }


def _readable(tuned: VisionCheckpoint, identity: str, store: Location) -> Location:
    """Where later stages read: a remote torch file would be downloaded whole for each layer."""
    if tuned.location.is_local or tuned.lazy:
        return tuned.location
    imported = store / "imports" / f"{identity}.safetensors"
    if not imported.is_file():
        write_safetensors(imported, dict(sorted(tuned.tensors.items())), tuned.read, None)
    return imported


def check_distinct(tasks: list[TaskFacts]) -> None:
    """Refuse two tasks with identical updates, whatever their files' formats."""
    seen: dict[str, str] = {}
    problems = []
    for task in tasks:
        other = seen.setdefault(task.checkpoint.tensors_sha256, task.name)
        if other != task.name:
            problems.append(
                f"tasks {other} and {task.name} have identical updates; remove one, or give the right "
                "checkpoint."
            )
    raise_together(problems)
