"""Features of a task's proxy images: those of the base and of the fine-tune, kept for the search of α."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.alpha.files import features_folder
from esm_core.architecture import build_tower, preprocess
from esm_core.arrays import read_array, write_arrays
from esm_core.errors import InputError
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.plan import Plan
from esm_core.stages import is_complete, write_marker
from esm_core.storage import Location
from esm_core.unchanged import as_inspected, unchanged
from esm_core.weights import open_tower, read_tower


def write_references(plan: Plan, name: str) -> Location:
    """Keep the base's and the fine-tune's features of a task's proxies; at once where they are there.

    Arrays ``base`` and ``tuned``, ``[n, embed_dim]`` float64, rows L2-normalised.

    Raises
    ------
    InputError
        A proxy image that cannot be read, features with NaN, or an input that changed.
    """
    folder = features_folder(plan, name)
    if is_complete(folder):
        return folder
    device, arrays = plan.recipe.evaluate.device, {}
    with unchanged(plan, [name]):
        base = open_tower(Location.parse(plan.base.weights))
        tuned = open_tower(Location.parse(plan.task(name).facts.checkpoint.weights))
        for label, checkpoint in (("base", base), ("tuned", tuned)):
            tower = build_tower(plan.architecture, read_tower(checkpoint, base), device, torch.float32)
            features = proxy_features(plan, tower, name)
            if not torch.isfinite(features).all():
                raise InputError(
                    f"task {name}: {checkpoint.location}: its features of the proxy images hold NaN or Inf. "
                    "The checkpoint is broken; export it again."
                )
            arrays[label] = features.numpy()
    write_arrays(folder, arrays)
    write_marker(folder, {})
    return folder


def read_references(plan: Plan, name: str) -> tuple[Tensor, Tensor]:
    """What :func:`write_references` kept: the base's and the fine-tune's features, checksums verified."""
    base, tuned = (torch.from_numpy(read_array(features_folder(plan, name), n)) for n in ("base", "tuned"))
    return base, tuned


def proxy_features(plan: Plan, tower: nn.Module, name: str) -> Tensor:
    """L2-normalised features of a task's proxies by ``tower``: ``[n, embed_dim]`` float64 on the CPU.

    Raises
    ------
    InputError
        The proxies cannot be read, or changed since they were inspected.
    """
    task, settings = plan.task(name), plan.recipe.evaluate
    source = open_images(Location.parse(task.spec.proxy))
    samples = as_inspected(plan, name, "proxy", source.read(task.facts.proxies))
    batches = image_batches(samples, source.location, preprocess(plan.architecture), settings.batch_size)
    with torch.inference_mode():
        features = [tower(images.to(settings.device)).cpu().double() for images, _ in batches]
    return functional.normalize(torch.cat(features), dim=-1)
