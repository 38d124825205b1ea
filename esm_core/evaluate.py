"""Accuracy of a model on a task's test images: one small JSON per (model, task), found again later."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from esm_core.architecture import build_tower
from esm_core.experts.places import routed_folder
from esm_core.labelled import count_correct
from esm_core.layer_merges import open_towers
from esm_core.methods import baseline
from esm_core.plan import Plan
from esm_core.recipe import CompareSpec
from esm_core.routing import RoutedTower, oracle, record
from esm_core.routing.assemble import assembled_experts
from esm_core.stages import FORMAT, canonical_json, read_versioned
from esm_core.static import static_tower
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import Updates, open_tower, read_tower

Accuracy = dict[str, dict[str, float]]

ROUTED = ("esm_pp_route", "esm_pp_oracle")


class EvaluationJob(BaseModel):
    """One model to load and the tasks to measure it on.

    Attributes
    ----------
    method : str
        Column of the table: ``base``, ``experts``, ``esm``, ``esm_pp_route``, ``esm_pp_oracle`` or a
        baseline.
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
    methods = ["base", "esm", *(ROUTED if plan.recipe.experts is not None else ())]
    methods += [spec.method for spec in plan.recipe.compare]
    jobs = [EvaluationJob(method=method, tasks=names) for method in methods]
    return jobs + [EvaluationJob(method="experts", tasks=[name]) for name in names]


def evaluate(plan: Plan, job: EvaluationJob) -> None:
    """Measure the job's model on its tasks, leaving out what is already known.

    Raises
    ------
    InputError
        Test images that are unreadable, unlabelled, or labelled beyond the head; an input that changed.
    """
    folders = {name: evaluation_file(plan, job, name) for name in job.tasks}
    todo = [name for name, folder in folders.items() if not folder.is_file()]
    if not todo:
        return
    settings = plan.recipe.evaluate
    tower = build_tower(plan.architecture, _tensors(plan, job), settings.device, torch.float32)
    measure = _count
    if job.method in ROUTED:
        tower = RoutedTower(tower, assembled_experts(plan))
        measure = _count_routed if job.method == "esm_pp_route" else _count_oracle
    for name in todo:
        facts = {**measure(plan, tower, name), "method": job.method, "task": name}
        folders[name].write_bytes(canonical_json({"format": FORMAT, "facts": facts}))


def _count(plan: Plan, tower: nn.Module, name: str) -> dict[str, Any]:
    correct, total = count_correct(plan, tower, name, "test")
    return {"correct": correct, "total": total}


def _count_oracle(plan: Plan, tower: nn.Module, name: str) -> dict[str, Any]:
    with oracle(tower, name):
        return _count(plan, tower, name)


def _count_routed(plan: Plan, tower: nn.Module, name: str) -> dict[str, Any]:
    with record(tower) as found:
        facts = _count(plan, tower, name)
    chosen = {
        layer: dict(zip(found.tasks, experts.bincount(minlength=len(found.tasks)).tolist(), strict=True))
        for layer, experts in found.decisions.items()
    }
    return {**facts, "chosen": chosen}


def evaluation_file(plan: Plan, job: EvaluationJob, name: str) -> Location:
    """Where the accuracy of a job's model on one of its tasks is kept."""
    return plan.evaluation(_identity(plan, job), name)


def accuracy(plan: Plan) -> Accuracy:
    """``accuracy[method][task]`` as fractions, from the evaluations that are done."""
    table: Accuracy = {}
    for job in evaluation_jobs(plan):
        for name in job.tasks:
            facts = read_versioned(evaluation_file(plan, job, name), "facts")
            table.setdefault(job.method, {})[name] = facts["correct"] / facts["total"]
    return table


def routing(plan: Plan) -> dict[str, dict[str, dict[str, int]]]:
    """``routing[layer][task][expert]``: test images of a task that were sent to an expert; all of them.

    ``layer`` is ``image`` for a router that decides once per image. Empty where nothing was routed.
    """
    table: dict[str, dict[str, dict[str, int]]] = {}
    for job in evaluation_jobs(plan):
        for name in job.tasks if job.method == "esm_pp_route" else ():
            facts = read_versioned(evaluation_file(plan, job, name), "facts")
            for layer, chosen in facts["chosen"].items():
                table.setdefault(layer, {})[name] = chosen
    return table


def routing_accuracy(table: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, float]:
    """Task → share of its images that were sent to its own expert, averaged over layers."""
    shares: dict[str, list[float]] = {}
    for by_task in table.values():
        for name, chosen in by_task.items():
            shares.setdefault(name, []).append(chosen[name] / sum(chosen.values()))
    return {name: sum(own) / len(own) for name, own in sorted(shares.items())}


def _compared(plan: Plan, method: str) -> CompareSpec:
    return next(spec for spec in plan.recipe.compare if spec.method == method)


def _identity(plan: Plan, job: EvaluationJob) -> dict[str, Any]:
    match job.method:
        case "base":
            return {"checkpoint": plan.base.identity}
        case "experts":
            return plan.expert_identity(job.tasks[0])
        case "esm":
            return {"static": plan.static_folder.name}
        case "esm_pp_route" | "esm_pp_oracle":
            routed = routed_folder(plan).name
            return {"static": plan.static_folder.name, "routed": routed, "mode": job.method}
    return plan.baseline_identity(_compared(plan, job.method))


def _tensors(plan: Plan, job: EvaluationJob) -> Mapping[str, Tensor]:
    if job.method in ("esm", *ROUTED):
        merged = static_tower(plan)
        return read_tower(merged, merged)
    read = {"base": [], "experts": job.tasks}.get(job.method)
    with unchanged(plan, read):
        return _tensors_of_checkpoints(plan, job)


def _tensors_of_checkpoints(plan: Plan, job: EvaluationJob) -> Mapping[str, Tensor]:
    base = open_tower(Location.parse(plan.base.weights))
    match job.method:
        case "base":
            return read_tower(base, base)
        case "experts":
            tuned = open_tower(Location.parse(plan.task(job.tasks[0]).facts.checkpoint.weights))
            return read_tower(tuned, base)
    spec = _compared(plan, job.method)
    method = baseline(spec.method)
    coefficient = spec.coefficient or method.coefficient
    tensors, towers = {}, open_towers(plan)
    for name, info in base.tensors.items():
        update = method.merge_weight(Updates(towers, name))
        tensors[name] = (base.read(name).to(torch.float64) + coefficient * update).to(info.dtype)
    return tensors
