"""Accuracy of a model on a task's test images: one small JSON per (model, task), found again later."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from esm_core.architecture import build_tower, full_model, preprocess
from esm_core.checkpoints import open_checkpoint, text_checkpoint
from esm_core.errors import InputError
from esm_core.heads import linear_head, predictions, zero_shot_head
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.layer_merges import open_towers
from esm_core.methods import BASELINES
from esm_core.plan import Plan
from esm_core.recipe import CompareSpec
from esm_core.stages import FORMAT, canonical_json, read_versioned
from esm_core.static import WEIGHTS_NAME
from esm_core.storage import Location
from esm_core.weights import Updates, open_tower, read_weight

Accuracy = dict[str, dict[str, float]]


class EvaluationJob(BaseModel):
    """One model to load and the tasks to measure it on.

    Attributes
    ----------
    method : str
        Column of the table: ``base``, ``experts``, ``esm`` or a baseline.
    tasks : list of str
        For ``experts`` the one task whose fine-tune is loaded.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    tasks: list[str]

    @property
    def label(self) -> str:
        return f"{self.method}:{self.tasks[0]}" if self.method == "experts" else self.method


def evaluation_jobs(plan: Plan) -> list[EvaluationJob]:
    """What the accuracy table needs: none where no task has labelled test images."""
    names = plan.evaluated
    if not names:
        return []
    methods = ["base", "esm", *(spec.method for spec in plan.recipe.compare)]
    jobs = [EvaluationJob(method=method, tasks=names) for method in methods]
    return jobs + [EvaluationJob(method="experts", tasks=[name]) for name in names]


def evaluate(plan: Plan, job: EvaluationJob) -> None:
    """Measure the job's model on its tasks, leaving out what is already known.

    Raises
    ------
    InputError
        Test images that are unreadable, unlabelled, or labelled beyond the head.
    """
    folders = {name: plan.evaluation(_identity(plan, job), name) for name in job.tasks}
    todo = [name for name, folder in folders.items() if not folder.is_file()]
    if not todo:
        return
    settings = plan.recipe.evaluate
    tower = build_tower(plan.architecture, _tensors(plan, job), settings.device, torch.float32)
    for name in todo:
        correct, total = _count(plan, tower, name)
        facts = {"correct": correct, "total": total, "method": job.method, "task": name}
        folders[name].write_bytes(canonical_json({"format": FORMAT, "facts": facts}))


def accuracy(plan: Plan) -> Accuracy:
    """``accuracy[method][task]`` as fractions, from the evaluations that are done."""
    table: Accuracy = {}
    for job in evaluation_jobs(plan):
        for name in job.tasks:
            facts = read_versioned(plan.evaluation(_identity(plan, job), name), "facts")
            table.setdefault(job.method, {})[name] = facts["correct"] / facts["total"]
    return table


def _compared(plan: Plan, method: str) -> CompareSpec:
    return next(spec for spec in plan.recipe.compare if spec.method == method)


def _identity(plan: Plan, job: EvaluationJob) -> dict[str, Any]:
    match job.method:
        case "base":
            return {"checkpoint": plan.base.sha256}
        case "experts":
            return plan.expert_identity(job.tasks[0])
        case "esm":
            return {"static": plan.static_folder.name}
    return plan.baseline_identity(_compared(plan, job.method))


def _tensors(plan: Plan, job: EvaluationJob) -> Mapping[str, Tensor]:
    base = open_tower(Location.parse(plan.base.weights))
    match job.method:
        case "base":
            return {name: base.read(name) for name in base.tensors}
        case "experts":
            tuned = open_tower(Location.parse(plan.task(job.tasks[0]).facts.checkpoint.weights))
            return {name: read_weight(tuned, base, name) for name in base.tensors}
        case "esm":
            merged = open_tower(plan.static_folder / WEIGHTS_NAME)
            return {name: merged.read(name) for name in merged.tensors}
    spec = _compared(plan, job.method)
    baseline = BASELINES[spec.method]
    coefficient = spec.coefficient or baseline.coefficient
    tensors, towers = {}, open_towers(plan)
    for name, info in base.tensors.items():
        update = baseline.merge_weight(Updates(towers, name))
        tensors[name] = (base.read(name).to(torch.float64) + coefficient * update).to(info.dtype)
    return tensors


def _head(plan: Plan, name: str) -> dict[str, Tensor]:
    spec = plan.task(name).spec
    if spec.zero_shot is None:
        assert spec.head is not None
        return linear_head(spec.head)
    checkpoint = open_checkpoint(Location.parse(plan.base.url))
    base = open_tower(checkpoint.location)
    text = text_checkpoint(checkpoint)
    state = {key: base.read(key) for key in base.tensors} | {key: text.read(key) for key in text.tensors}
    model = full_model(plan.architecture, {key: value.float() for key, value in state.items()})
    return zero_shot_head(spec.zero_shot, model, plan.architecture)


def _count(plan: Plan, tower: nn.Module, name: str) -> tuple[int, int]:
    spec = plan.task(name).spec
    assert spec.test is not None
    head = _head(plan, name)
    classes = head["weight"].shape[0]
    source = open_images(Location.parse(spec.test))
    batches = image_batches(
        source.read_all(), source.location, preprocess(plan.architecture), plan.recipe.evaluate.batch_size
    )
    correct = total = 0
    for images, labels in batches:
        if None in labels:
            raise InputError(
                f"task {name}: {source.location}: holds test images without a label. Put them in a folder "
                "per class, or give labels in the shards (.cls, .json) or the Parquet column."
            )
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
