"""The collection stage of one fine-tune: plan and task name in, a complete shift folder out."""

import torch

from esm_core.architecture import build_tower, preprocess
from esm_core.collect import collect_inputs
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.plan import Plan
from esm_core.shifts import write_shifts
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


def collect_task(plan: Plan, name: str) -> Location:
    """Collect one fine-tune's layer inputs; at once where they are already there.

    Raises
    ------
    InputError
        A proxy image that cannot be read, NaN among the inputs of a layer, or an input that changed.
    """
    folder = plan.shift_folder(name)
    if is_complete(folder):
        return folder
    task, settings = plan.task(name), plan.recipe.collect
    with unchanged(plan, [name]):
        base = open_tower(Location.parse(plan.base.weights))
        tuned = open_tower(Location.parse(task.facts.checkpoint.weights))
        tensors = read_tower(tuned, base)
    tower = build_tower(plan.architecture, tensors, settings.device, _PRECISIONS[settings.precision])
    source = open_images(Location.parse(task.spec.proxy))
    samples = as_inspected(plan, name, "proxy", source.read(task.facts.proxies))
    batches = image_batches(samples, source.location, preprocess(plan.architecture), settings.batch_size)
    layers = collect_inputs(tower, (images for images, _ in batches), settings.layers, name)
    write_shifts(folder, layers, plan.shift_identity(name))
    return folder
