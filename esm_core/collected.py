"""What collection keeps of a fine-tune, and where: one folder for the merge, others for experts.

The folders are collected by one run of the fine-tune, or by several: what a merge is made from does not
depend on whether experts are wanted.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from esm_core.experts.check import expert_weights_of
from esm_core.layers import ESSENTIAL_KINDS, SHIFT_KINDS, layer_kind
from esm_core.plan import Plan
from esm_core.settings import ExpertSettings
from esm_core.stages import digest_of, is_complete
from esm_core.storage import Location

MERGE = "merge"
_EXTRAS = "extras"


class Kept(NamedTuple):
    """What one folder holds, by weight: factors of inputs, with their means, and factors of shifts."""

    inputs: list[str]
    shifts: list[str]


class Part(NamedTuple):
    """A folder of what is collected of one fine-tune.

    Attributes
    ----------
    folder : Location
    identity : dict
        What determines its content.
    kept : Kept
    """

    folder: Location
    identity: dict[str, Any]
    kept: Kept


def kept_of(weights: Iterable[str], experts: ExpertSettings | None) -> dict[str, Kept]:
    """What is kept of a tower with these weights: ``merge``, and of each kind that only experts need.

    A merge needs the shifts ``X dWᵀ`` only, an expert the inputs ``X``, since its residual is known later.
    Where a layer has fewer outputs than inputs the shift's factor is the smaller one; elsewhere that of the
    inputs serves both.
    """
    names = sorted(weights)
    essential = [name for name in names if layer_kind(name) in ESSENTIAL_KINDS]
    shifts = [name for name in essential if layer_kind(name) in SHIFT_KINDS]
    kept = {MERGE: Kept([name for name in essential if name not in shifts], shifts)}
    for name in expert_weights_of(experts, dict.fromkeys(names)) if experts else []:
        if (part := _part_with_inputs(name)) != MERGE:
            kept.setdefault(part, Kept([], [])).inputs.append(name)
    return kept


def parts(plan: Plan, name: str) -> list[Part]:
    """The folders that a plan's merge needs of a task, with what they hold."""
    return [
        Part(_folder(plan, name, part), _identity(plan, name, part), kept)
        for part, kept in kept_of(plan.rules, plan.recipe.experts).items()
    ]


def folders(plan: Plan, name: str) -> list[Location]:
    """The folders that a plan's merge needs of a task."""
    return [part.folder for part in parts(plan, name)]


def is_collected(plan: Plan, name: str) -> bool:
    """Whether all that a plan's merge needs of a task is in the store."""
    return all(is_complete(folder) for folder in folders(plan, name))


def inputs_folder(plan: Plan, name: str, weight: str) -> Location:
    """Where the inputs of one weight are kept, as experts need them."""
    return _folder(plan, name, _part_with_inputs(weight))


def _part_with_inputs(weight: str) -> str:
    kind = layer_kind(weight)
    if kind is None:
        return _EXTRAS
    return MERGE if kind in ESSENTIAL_KINDS - SHIFT_KINDS else kind


def _identity(plan: Plan, name: str, part: str) -> dict[str, Any]:
    if part == MERGE:
        return plan.shift_identity(name)
    return {**plan.input_identity(name), "part": part}


def _folder(plan: Plan, name: str, part: str) -> Location:
    if part == MERGE:
        return plan.shift_folder(name)
    return plan.store / "shifts" / digest_of("shifts", _identity(plan, name, part))
