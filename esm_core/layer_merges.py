"""The merge store: the merged update of each weight, one folder per weight, and how it came about."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esm_core.arrays import read_array, write_arrays
from esm_core.merge import merge_other
from esm_core.methods.esm import merge_layer
from esm_core.plan import Plan
from esm_core.shifts import read_factor
from esm_core.stages import is_complete, read_marker, write_marker
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import Towers, Updates, open_tower


def open_towers(plan: Plan) -> Towers:
    """The base and the fine-tunes of a plan, headers only."""
    tuned = [open_tower(Location.parse(task.facts.checkpoint.weights)) for task in plan.tasks]
    return Towers(open_tower(Location.parse(plan.base.weights)), tuned)


def merge_one(plan: Plan, weight: str) -> Location:
    """Merge one weight and keep the result; at once where it is already there.

    Reads that weight and that layer's inputs only, one task at a time. Beside the update ``M`` the
    folder holds, for reports, the tasks' eigenvalues (rows in the plan's order, padded with zeros) and
    the overlaps of their kept subspaces.

    Raises
    ------
    IntegrityError
        Collected inputs are damaged.
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = plan.layer_folder(weight)
    if is_complete(folder):
        return folder
    device = plan.recipe.fuse.device
    facts: dict[str, Any] = {"rule": plan.rules[weight]}
    with unchanged(plan):
        updates = Updates(open_towers(plan), weight, device)
        if plan.rules[weight] == "essential":
            pairs = (
                (updates[i], read_factor(plan.shift_folder(task.name), weight, device))
                for i, task in enumerate(plan.tasks)
            )
            merged = merge_layer(pairs, len(plan.tasks), plan.recipe.method)
            spectra = pad_sequence(merged.eigenvalues, batch_first=True)
            arrays = {"update": merged.update, "overlaps": merged.overlaps, "eigenvalues": spectra}
            facts["ranks"] = merged.ranks
        else:
            arrays = {"update": merge_other(updates, plan.recipe.method)}
    facts["norm"] = float(arrays["update"].norm())
    write_arrays(folder, {name: array.cpu().numpy() for name, array in arrays.items()})
    write_marker(folder, facts)
    return folder


def read_update(plan: Plan, weight: str) -> Tensor:
    """``M`` of one weight, float64, checksums verified, before inter-layer scaling and α."""
    return torch.from_numpy(read_array(plan.layer_folder(weight), "update"))


def update_norms(plan: Plan) -> dict[str, float]:
    """``‖M‖_F`` of every weight merged by layer, from the markers alone."""
    return {w: float(read_marker(plan.layer_folder(w))["norm"]) for w in plan.decomposed}
