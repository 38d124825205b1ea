"""Publication of a merge: what goes into the artifact, and whether it is already there."""

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from safetensors.torch import save

from esm_core.architecture import CONFIG_NAME
from esm_core.artifacts import (
    Manifest,
    Version,
    Writer,
    bytes_writer,
    copy_writer,
    open_version,
    publish_version,
    verify_version,
    version_numbers,
)
from esm_core.checkpoints import SafetensorsFile, open_checkpoint
from esm_core.errors import IntegrityError, NewerFormatError
from esm_core.experts.places import routed_folder
from esm_core.experts.version import EXPERTS_FOLDER
from esm_core.extensions import versions
from esm_core.model_card import model_card
from esm_core.plan import Plan
from esm_core.reachable import reachable
from esm_core.routing.assemble import expert_facts
from esm_core.run_record import StageRecord
from esm_core.stages import read_marker
from esm_core.static import WEIGHTS_NAME, static_facts
from esm_core.storage import Location

LIBRARIES = ("esmerge", "torch", "open_clip_torch", "safetensors", "zarr", "numpy", "pillow")


def published(plan: Plan) -> Version | None:
    """The latest version, if its manifest says it was made from exactly this plan; reads no other file."""
    name = plan.recipe.name
    if not version_numbers(plan.store, name):
        return None
    try:
        version = open_version(plan.store, name)
    except NewerFormatError:
        raise
    except IntegrityError:
        return None
    return version if version.manifest.get("identity") == plan.identity else None


def up_to_date(plan: Plan) -> Version | None:
    """:func:`published`, if every file of it is intact too: a damaged version is no reason to stop."""
    version = published(plan)
    try:
        if version is not None:
            verify_version(version)
    except IntegrityError:
        return None
    return version


def publish(plan: Plan, metrics: dict[str, Any], stages: Sequence[StageRecord] = ()) -> Version:
    """Publish the merged checkpoint, experts, heads and the model card; commit with the manifest.

    Parameters
    ----------
    metrics : dict
        What was measured, JSON values.
    stages : sequence of StageRecord
        What the run did so far.

    Returns
    -------
    Version
        The new version; or the latest, where another run has published the same meanwhile.

    Raises
    ------
    IntegrityError
        The merged checkpoint is not the one its marker names. Nothing is committed then.
    """
    facts = static_facts(plan)
    previous = version_numbers(plan.store, plan.recipe.name)
    content = _manifest(plan, metrics, facts, previous[-1] if previous else None)
    content["run"] = {"stages": [stage.model_dump() for stage in stages]}
    files: dict[str, Writer] = {
        f"model/{WEIGHTS_NAME}": _checked_copy(plan.static_folder / WEIGHTS_NAME, facts["sha256"]),
        f"model/{CONFIG_NAME}": copy_writer(plan.static_folder / CONFIG_NAME),
        "README.md": bytes_writer(model_card(content, plan.recipe.name).encode()),
    }
    if plan.recipe.experts is not None:
        routed = routed_folder(plan)
        for file, sha256 in read_marker(routed)["sha256"].items():
            files[f"{EXPERTS_FOLDER}/{file}"] = _checked_copy(routed / file, sha256)
    for task in plan.tasks:
        if task.spec.head is not None:
            assert task.facts.head_sha256 is not None
            files[f"heads/{task.name}.safetensors"] = _head_writer(task.spec.head, task.facts.head_sha256)
    current = up_to_date(plan)
    return current or publish_version(plan.store, plan.recipe.name, files, content)


def _head_writer(url: str, sha256: str) -> Writer:
    """The head as safetensors: a copy of the file, or its tensors where torch.save wrote it."""
    head = open_checkpoint(Location.parse(url))
    if isinstance(head, SafetensorsFile):
        return _checked_copy(head.location, sha256)
    if head.location.sha256() != sha256:
        raise IntegrityError(f"{head.location}: changed since the merge began. Run again.")
    return bytes_writer(save({name: head.read(name) for name in ("bias", "weight") if name in head.tensors}))


def _checked_copy(source: Location, sha256: str) -> Writer:
    write = copy_writer(source)

    def checked(stream: Any) -> None:
        write(stream)
        if stream.digest.hexdigest() != sha256:
            raise IntegrityError(
                f"{source}: is not the file it was when the merge began (sha256 differs). Delete "
                f"{source.parent} if it is in the store, and run again."
            )

    return checked


def _manifest(plan: Plan, metrics: dict[str, Any], facts: dict[str, Any], parent: int | None) -> Manifest:
    assert plan.alpha is not None
    tasks = {}
    for task in plan.tasks:
        checkpoint = task.facts.checkpoint
        tasks[task.name] = {
            "checkpoint": checkpoint.model_dump(exclude={"weights"}),
            "activation_source": task.activation_source,
            "proxies": {
                "url": task.spec.proxy,
                "samples": task.facts.proxies,
                "sha256": task.facts.proxies_sha256,
                "shifts": plan.shift_folder(task.name).name,
                "routing_samples": task.facts.routing_proxies,
                "routing_sha256": task.facts.routing_proxies_sha256,
            },
            "test": task.facts.test.model_dump() if task.facts.test else None,
            "validation": task.facts.validation.model_dump() if task.facts.validation else None,
        }
    manifest = {
        "identity": plan.identity,
        "parent": parent,
        "recipe": plan.recipe.model_dump(mode="json"),
        "architecture": {
            "name": plan.architecture.name,
            "activation": plan.architecture.activation,
            "preprocess": plan.architecture.preprocess_cfg,
            "text_tower": "from the base" if plan.has_text else "placeholder (the base has none)",
        },
        "inputs": {
            "base": {
                "checkpoint": plan.base.model_dump(exclude={"weights"}),
                "activation_source": plan.base_activation_source,
            },
            "tasks": tasks,
        },
        "alpha": plan.alpha.value,
        "alpha_search": plan.alpha.model_dump(include={"method", "curve"}),
        "layer_scales": facts["layer_scales"],
        "experts": expert_facts(plan) if plan.recipe.experts is not None else None,
        "metrics": metrics,
        "store_paths": reachable(plan),
        "libraries": versions() | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return dict(json.loads(json.dumps(manifest)))
