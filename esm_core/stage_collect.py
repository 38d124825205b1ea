"""The collection stage of one fine-tune: plan and task name in, complete shift folders out."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from esm_core.architecture import build_tower, preprocess
from esm_core.collect import Streams, collect_inputs
from esm_core.collected import Kept, parts
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.plan import Plan
from esm_core.shifts import Layer, write_shifts
from esm_core.stages import is_complete
from esm_core.storage import Location
from esm_core.unchanged import as_inspected, unchanged
from esm_core.weights import open_tower, read_tower

_PRECISIONS = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def collect_task(plan: Plan, name: str) -> None:
    """Collect what a plan's merge needs of one fine-tune, by one run of it; at once where it is all there.

    Raises
    ------
    InputError
        A proxy image that cannot be read, NaN among the inputs of a layer, or an input that changed.
    """
    missing = [part for part in parts(plan, name) if not is_complete(part.folder)]
    if not missing:
        return
    inputs = [weight for part in missing for weight in part.kept.inputs]
    streams = _run(plan, name, inputs, [weight for part in missing for weight in part.kept.shifts])
    for part in missing:
        write_shifts(part.folder, _taken(streams, part.kept), part.identity)


def _run(plan: Plan, name: str, inputs: Sequence[str], shifts: Sequence[str]) -> Streams:
    task, settings = plan.task(name), plan.recipe.collect
    with unchanged(plan, [name]):
        base = open_tower(Location.parse(plan.base.weights))
        tuned = open_tower(Location.parse(task.facts.checkpoint.weights))
        tensors = read_tower(tuned, base)
        # In the files' own dtypes: half the memory of their differences, and the tower shares the second.
        pairs = {weight: (base.read(weight), tensors[weight]) for weight in shifts}
    tower = build_tower(plan.architecture, tensors, settings.device, _PRECISIONS[settings.precision])
    del tensors
    source = open_images(Location.parse(task.spec.proxy))
    samples = as_inspected(plan, name, "proxy", source.read(task.facts.proxies))
    batches = image_batches(samples, source.location, preprocess(plan.architecture), settings.batch_size)
    updates = {weight: partial(_update, *pair, settings.device) for weight, pair in pairs.items()}
    return collect_inputs(tower, (images for images, _ in batches), inputs, updates, name)


def _update(base: Tensor, tuned: Tensor, device: str) -> Tensor:
    own, origin = (tensor.to(device).to(torch.float64) for tensor in (tuned, base))
    return own - origin


def _taken(streams: Streams, kept: Kept) -> Iterator[tuple[str, Layer]]:
    for weight in kept.inputs:
        yield weight, streams.take_inputs(weight)
    for weight in kept.shifts:
        yield weight, streams.take_shift(weight)
