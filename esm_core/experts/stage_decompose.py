"""The expert stage of one weight: every task's expert, from stored inputs alone."""

import contextlib

import torch
from torch import Tensor

from esm_core.arrays import read_array, write_arrays
from esm_core.collected import inputs_folder
from esm_core.experts.decompose import decompose
from esm_core.experts.names import linear_map
from esm_core.experts.places import expert_folder, expert_settings
from esm_core.factor import InputFactor
from esm_core.plan import Plan, PlannedTask
from esm_core.prefetch import prefetched, to_device
from esm_core.shifts import read_inputs
from esm_core.stages import is_complete, write_marker
from esm_core.static import static_tower
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import open_tower, read_weight


def decompose_one(plan: Plan, weight: str) -> Location:
    """Make every task's expert of one weight; at once where they are already there.

    Reads that weight and its collected inputs only, one task at a time and the next one ahead; no
    fine-tune is run again.
    Arrays ``A`` ``[T, r, d_in]`` and ``B`` ``[T, d_out, r]``, in the plan's order of tasks.

    Raises
    ------
    IntegrityError
        The inputs of this weight were never collected, or are damaged.
    InputError
        A checkpoint changed since it was inspected.
    """
    folder = expert_folder(plan, weight)
    if is_complete(folder):
        return folder
    device, rank = plan.recipe.fuse.device, expert_settings(plan).rank
    static = linear_map(weight, static_tower(plan).read(weight)).to(device=device, dtype=torch.float64)
    experts = {}

    def read(task: PlannedTask) -> tuple[Tensor, InputFactor]:
        tuned = read_weight(open_tower(Location.parse(task.facts.checkpoint.weights)), base, weight)
        residual = to_device(linear_map(weight, tuned), device).to(torch.float64) - static
        inputs = read_inputs(inputs_folder(plan, task.name, weight), weight)
        return residual, inputs._replace(factor=to_device(inputs.factor, device))

    with unchanged(plan):
        base = open_tower(Location.parse(plan.base.weights))
        with contextlib.closing(prefetched(read, plan.tasks)) as found:
            for task, item in zip(plan.tasks, found, strict=True):
                experts[task.name] = decompose(*item, rank)
                del item
    parts = {"A": [e.down for e in experts.values()], "B": [e.up for e in experts.values()]}
    write_arrays(folder, {name: torch.stack(part).cpu().numpy() for name, part in parts.items()})
    write_marker(folder, {"kept": {name: expert.kept for name, expert in experts.items()}})
    return folder


def read_part(plan: Plan, weight: str, part: str) -> Tensor:
    """``A`` or ``B`` of one weight's experts, float64, checksums verified."""
    return torch.from_numpy(read_array(expert_folder(plan, weight), part))
