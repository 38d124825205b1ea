"""Counting what a tower and a task's head get right on the task's labelled images."""

from typing import Literal

import torch
from torch import Tensor, nn

from esm_core.architecture import full_model, preprocess
from esm_core.checkpoints import TensorInfo, open_checkpoint, text_checkpoint, write_safetensors
from esm_core.errors import InputError
from esm_core.heads import linear_head, predictions, zero_shot_head
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.plan import Plan
from esm_core.recipe import ZeroShotSpec
from esm_core.stages import digest_of
from esm_core.storage import Location
from esm_core.survey import unlabelled
from esm_core.unchanged import as_inspected, check_head, unchanged
from esm_core.weights import open_tower


def count_correct(
    plan: Plan, tower: nn.Module, name: str, split: Literal["test", "validation"]
) -> tuple[int, int]:
    """How many of a task's images ``tower`` gets right under the task's head, and how many there are.

    Raises
    ------
    InputError
        Images that are unreadable, unlabelled, or labelled beyond the head; images or a head that changed.
    """
    url = getattr(plan.task(name).spec, split)
    head = _head(plan, name)
    classes = head["weight"].shape[0]
    source = open_images(Location.parse(url))
    samples = as_inspected(plan, name, split, source.read_all())
    prepare, size = preprocess(plan.architecture), plan.recipe.evaluate.batch_size
    batches = image_batches(samples, source.location, prepare, size)
    correct = total = 0
    for images, labels in batches:
        if None in labels:
            raise InputError(f"task {name}: {unlabelled(source.location, split)}")
        unknown = [label for label in labels if label is not None and not 0 <= label < classes]
        if unknown:
            raise InputError(
                f"task {name}: {source.location}: labels must be 0 to {classes - 1} to fit the head, "
                f"found {unknown[0]}."
            )
        with torch.inference_mode():
            found = predictions(tower(images.to(plan.recipe.evaluate.device)), head).cpu()
        correct += int((found == torch.tensor(labels)).sum())
        total += len(labels)
    return correct, total


def _head(plan: Plan, name: str) -> dict[str, Tensor]:
    spec = plan.task(name).spec
    if spec.zero_shot is None:
        assert spec.head is not None
        head = linear_head(spec.head)
        check_head(plan, name)
        return head
    kept = zero_shot_file(plan, name)
    if not kept.is_file():
        head = _zero_shot_head(plan, spec.zero_shot)
        infos = {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in head.items()}
        write_safetensors(kept, infos, head.__getitem__)
    return linear_head(kept.url)


def zero_shot_file(plan: Plan, name: str) -> Location:
    """Where the head that is made of a task's class names is kept."""
    identity = {"head": plan.head_identity(name), "model_cfg": plan.architecture.model_cfg}
    return plan.store / "zero-shot" / f"{digest_of('zero-shot', identity)}.safetensors"


def _zero_shot_head(plan: Plan, spec: ZeroShotSpec) -> dict[str, Tensor]:
    with unchanged(plan, [], base_file=True):
        checkpoint = open_checkpoint(Location.parse(plan.base.url))
        base = open_tower(checkpoint.location)
        text = text_checkpoint(checkpoint)
        state = {key: base.read(key) for key in base.tensors} | {key: text.read(key) for key in text.tensors}
    model = full_model(plan.architecture, {key: value.float() for key, value in state.items()})
    return zero_shot_head(spec, model, plan.architecture)
