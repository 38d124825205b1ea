"""The static merge as one pure function over tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esm_core.errors import InputError, raise_together
from esm_core.factor import InputFactor
from esm_core.layers import ESSENTIAL_KINDS, layer_kind
from esm_core.methods import tsv_m
from esm_core.methods.esm import layer_scales, merge_layer
from esm_core.settings import MergeSettings

Inputs = Tensor | InputFactor | tuple[Tensor, int]


def merge_updates(
    updates: Mapping[str, Mapping[str, Tensor]],
    inputs: Mapping[str, Mapping[str, Inputs]],
    settings: MergeSettings | None = None,
) -> dict[str, Tensor]:
    """Merge the updates of several tasks by Essential Subspace Merging.

    Parameters
    ----------
    updates : mapping of task to mapping of weight name to Tensor
        ``W_t - W0`` for every weight; the same names and shapes in every task.
    inputs : mapping of task to mapping of weight name to inputs
        Needed for ``attn.in_proj``, ``mlp.c_fc`` and ``mlp.c_proj`` weights: the layer's raw inputs
        ``[n, d_in]``, or a compressed factor with its row count (:class:`InputFactor` or a pair).
    settings : MergeSettings, optional
        The published ones where not given.

    Returns
    -------
    dict
        Weight name → merged update, inter-layer scaling included, before α, in the updates' dtype
        (float64 inside) and on their device. The order of the tasks does not matter, bit for bit.

    Raises
    ------
    InputError
        Fewer than two tasks, weights or shapes that differ between tasks, or missing inputs.
    """
    settings = settings or MergeSettings()
    tasks = sorted(updates)
    _check(updates, inputs, tasks)
    merged: dict[str, Tensor] = {}
    for weight in sorted(updates[tasks[0]]):
        own = [updates[task][weight] for task in tasks]
        if merges_essentially(weight):
            pairs = ((updates[t][weight], as_factor(inputs[t][weight])) for t in tasks)
            merged[weight] = merge_layer(pairs, len(tasks), settings).update
        else:
            merged[weight] = merge_other(own, settings)
    scales = layer_scales({weight: float(m.norm()) for weight, m in merged.items()}, settings)
    reference = updates[tasks[0]]
    return {weight: (m * scales[weight]).to(reference[weight].dtype) for weight, m in merged.items()}


def merges_essentially(weight: str) -> bool:
    """Whether the weight gets essential subspace decomposition (and α)."""
    return layer_kind(weight) in ESSENTIAL_KINDS


def merge_other(updates: Sequence[Tensor], settings: MergeSettings) -> Tensor:
    """A weight without essential decomposition: TSV-M for matrices, the mean for the rest (float64)."""
    return tsv_m.merge_weight(updates, settings.rank)


def as_factor(inputs: Inputs) -> InputFactor:
    """Raw inputs ``[n, d_in]`` or a ``(factor, rows)`` pair as an :class:`InputFactor`."""
    if isinstance(inputs, Tensor):
        return InputFactor(inputs, inputs.shape[0])
    return InputFactor(*inputs)


def _check(
    updates: Mapping[str, Mapping[str, Tensor]],
    inputs: Mapping[str, Mapping[str, Inputs]],
    tasks: Sequence[str],
) -> None:
    if len(tasks) < 2:
        raise InputError(f"A merge needs the updates of at least two tasks, not {len(tasks)}.")
    reference = updates[tasks[0]]
    problems = []
    for task in tasks:
        own = updates[task]
        different = sorted(set(own) ^ set(reference))
        if different:
            problems.append(f"Task {task}: its weights differ from {tasks[0]}'s: {', '.join(different[:3])}.")
            continue
        for weight, update in own.items():
            if update.shape != reference[weight].shape:
                problems.append(
                    f"Task {task}: {weight} has shape {tuple(update.shape)}, but "
                    f"{tuple(reference[weight].shape)} in {tasks[0]}."
                )
            elif not update.is_floating_point():
                problems.append(f"Task {task}: {weight} is {update.dtype}, expected a floating dtype.")
            elif not torch.isfinite(update).all():
                problems.append(f"Task {task}: the update of {weight} holds NaN or Inf.")
            elif merges_essentially(weight):
                problems.extend(_input_problems(task, weight, update, inputs.get(task, {}).get(weight)))
    raise_together(problems)


def _input_problems(task: str, weight: str, update: Tensor, given: Inputs | None) -> list[str]:
    if given is None:
        return [f"Task {task}: no inputs for {weight}; give its raw inputs or a compressed factor."]
    factor = as_factor(given).factor
    if factor.ndim != 2 or factor.shape[1] != update.shape[1]:
        return [
            f"Task {task}: inputs of {weight} have shape {tuple(factor.shape)}, expected "
            f"[rows, {update.shape[1]}]."
        ]
    if not torch.isfinite(factor).all():
        return [f"Task {task}: inputs of {weight} hold NaN or Inf."]
    return []
