"""The merge store: the merged update of each weight, one folder per weight, and how it came about."""

import contextlib
import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esm_core.arrays import read_stored, write_arrays
from esm_core.bases import Part, basis_file, cut, decompose, fuse, read_basis, write_basis
from esm_core.factor import InputFactor, ShiftFactor
from esm_core.methods.esm import EssentialMerge
from esm_core.plan import Plan, PlannedTask
from esm_core.prefetch import prefetched, to_device
from esm_core.shifts import read_factor
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import Towers, open_tower, read_weight

log = logging.getLogger(__name__)


def open_towers(plan: Plan) -> Towers:
    """The base and the fine-tunes of a plan, headers only."""
    tuned = [open_tower(Location.parse(task.facts.checkpoint.weights)) for task in plan.tasks]
    return Towers(open_tower(Location.parse(plan.base.weights)), tuned)


def merge_one(plan: Plan, weight: str) -> Location:
    """Merge one weight and keep the result; at once where it is already there.

    Reads that weight and that layer's inputs only, one task at a time and the next one ahead; of a task
    whose decomposition is in the store, only that. Beside the update ``M`` the folder holds, for reports,
    the tasks' eigenvalues (rows in the plan's order, padded with zeros) and the overlaps of their kept
    subspaces.

    Raises
    ------
    IntegrityError
        Collected inputs, or a kept decomposition, are damaged.
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = plan.layer_folder(weight)
    if is_complete(folder):
        return folder
    facts: dict[str, Any] = {"rule": plan.rules[weight]}
    merged = fuse(_parts(plan, weight), plan.recipe.method)
    if isinstance(merged, EssentialMerge):
        spectra = pad_sequence(merged.eigenvalues, batch_first=True)
        arrays = {"update": merged.update, "overlaps": merged.overlaps, "eigenvalues": spectra}
        facts |= {"ranks": merged.ranks, "task_norms": merged.norms.tolist()}
    else:
        arrays = {"update": merged}
    facts["norm"] = float(arrays["update"].norm())
    # A published weight is float32 at most, and an update a few percent of it.
    arrays["update"] = arrays["update"].to(torch.float32)
    write_arrays(folder, {name: array.cpu().numpy() for name, array in arrays.items()})
    write_marker(folder, facts)
    return folder


def _parts(plan: Plan, weight: str) -> list[Part]:
    """Every task's part in the merge of one weight, in the plan's order, at the rank that is merged."""
    keep, parts = plan.recipe.fuse.keep_bases, []
    files = {task.name: basis_file(plan, weight, task.name) for task in plan.tasks}
    kept = {name: file for name, file in files.items() if keep and file.is_file()}
    if kept:
        log.info("%s: %d of %d decompositions were in the store", weight, len(kept), len(plan.tasks))
    reader = _Reader(plan, weight, kept)
    with contextlib.closing(prefetched(reader.read, plan.tasks)) as found:
        for task, item in zip(plan.tasks, found, strict=True):
            part = item if isinstance(item, Part) else decompose(plan, weight, *item)
            del item
            if keep and task.name not in kept:
                write_basis(files[task.name], part)
            parts.append(cut(plan, part))
            del part
    return parts


class _Reader:
    """Reads a task's decomposition of one weight where it is kept, else what it is made of."""

    def __init__(self, plan: Plan, weight: str, kept: dict[str, Location]) -> None:
        self._plan, self._weight, self._kept = plan, weight, kept
        if len(kept) < len(plan.tasks):
            with unchanged(plan, []):
                self._base_tower = open_tower(Location.parse(plan.base.weights))
                self._base = self._double(self._base_tower.read(weight))

    def read(self, task: PlannedTask) -> Part | tuple[Tensor, InputFactor | ShiftFactor | None]:
        """The part, at the rank it is kept with, or the update and its layer's inputs; on the device."""
        plan, weight, device = self._plan, self._weight, self._plan.recipe.fuse.device
        if task.name in self._kept:
            return read_basis(self._kept[task.name], plan.rules[weight], device)
        # What is made of a checkpoint is kept under its digest, so it is asked here, not once for all tasks.
        with unchanged(plan, [task.name]):
            tower = open_tower(Location.parse(task.facts.checkpoint.weights))
            tuned = read_weight(tower, self._base_tower, weight)
        update = self._double(tuned) - self._base
        if plan.rules[weight] != "essential":
            return update, None
        inputs = read_factor(plan.shift_folder(task.name), weight)
        return update, inputs._replace(factor=to_device(inputs.factor, device))

    def _double(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self._plan.recipe.fuse.device).to(torch.float64)


def read_update(plan: Plan, weight: str) -> Tensor:
    """``M`` of one weight, float32, checksums verified, before inter-layer scaling and α."""
    return torch.from_numpy(read_stored(plan.layer_folder(weight), "update"))


def update_norms(plan: Plan) -> dict[str, float]:
    """``‖M‖_F`` of every weight merged by layer, from the markers alone."""
    return {w: float(read_marker(plan.layer_folder(w))["norm"]) for w in plan.decomposed}
