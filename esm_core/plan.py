"""The plan: a recipe with every input known by content, and the folder of every stage's output.

A plan is a value: it holds references and digests, never tensors, and is sent to every task.
"""

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from esm_core.alpha.choice import ChosenAlpha
from esm_core.architecture import Architecture
from esm_core.errors import InputError, IntegrityError
from esm_core.facts import CheckpointFacts, TaskFacts
from esm_core.heads import head_identity
from esm_core.inspection import check_distinct
from esm_core.methods import baseline
from esm_core.outline import Outline, Rule
from esm_core.recipe import CompareSpec, Recipe, TaskSpec
from esm_core.stages import digest_of
from esm_core.storage import Location

REVISION = 7
"""Of the linear algebra: raised when the same inputs give other bits; earlier results are left alone."""


class PlannedTask(BaseModel):
    """A task of the plan: what the recipe says and what inspection found."""

    model_config = ConfigDict(frozen=True)

    spec: TaskSpec
    facts: TaskFacts
    activation_source: str

    @property
    def name(self) -> str:
        return self.spec.name


class Plan(BaseModel):
    """Everything a merge does, resolved.

    Attributes
    ----------
    tasks : list of PlannedTask
        Sorted by name, so the order in the recipe does not matter, bit for bit.
    rules, has_text
        As in :class:`Outline`.
    alpha : ChosenAlpha, optional
        ``None`` until the search that the recipe asks for has chosen it.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    architecture: Architecture
    base: CheckpointFacts
    base_activation_source: str
    tasks: list[PlannedTask]
    rules: dict[str, Rule]
    has_text: bool
    alpha: ChosenAlpha | None

    @property
    def store(self) -> Location:
        return Location.parse(self.recipe.store)

    def task(self, name: str) -> PlannedTask:
        return next(task for task in self.tasks if task.name == name)

    @property
    def decomposed(self) -> list[str]:
        """Weights that are merged layer by layer (the others take the mean, in the last stage)."""
        return sorted(weight for weight, rule in self.rules.items() if rule != "mean")

    def expert_identity(self, name: str) -> dict[str, Any]:
        """What determines a fine-tuned tower; the base's projection is part where its layout has none."""
        checkpoint = self.task(name).facts.checkpoint
        # Facts that were noted before they had the field tell it by the layout.
        borrows = checkpoint.borrows_projection or checkpoint.layout.startswith("HF")
        completed = self.base.identity if borrows else None
        return {"checkpoint": checkpoint.identity, "projection": completed}

    def input_identity(self, name: str) -> dict[str, Any]:
        """What determines a task's layer inputs. ``layout`` is 2 since triangles are packed."""
        return {
            **self.expert_identity(name),
            "architecture": self.architecture.identity,
            "proxies": self.task(name).facts.proxies_sha256,
            "collect": self.recipe.collect.model_dump(mode="json", exclude={"layers"}),
            "layout": 2,
        }

    def shift_identity(self, name: str) -> dict[str, Any]:
        """What determines what is collected of a task for the merge, whether or not there are experts."""
        return {**self.input_identity(name), "part": "merge", "base": self.base.identity}

    def shift_folder(self, name: str) -> Location:
        """Where that is kept; what experts need beside it is in :mod:`esm_core.collected`."""
        return self.store / "shifts" / digest_of("shifts", self.shift_identity(name))

    @property
    def fuse_identity(self) -> dict[str, Any]:
        """What determines decompositions and fusions beside their inputs: not whether the former are kept."""
        return {"revision": REVISION, **self.recipe.fuse.model_dump(mode="json", exclude={"keep_bases"})}

    @property
    def merge_digest(self) -> str:
        inputs = {t.name: [t.facts.checkpoint.identity, self.shift_folder(t.name).name] for t in self.tasks}
        identity = {
            "base": self.base.identity,
            "tasks": inputs,
            "method": self.recipe.method.model_dump(mode="json", exclude={"inter_layer"}),
            "fuse": self.fuse_identity,
        }
        return digest_of("merge", identity)

    def layer_folder(self, weight: str) -> Location:
        return self.store / "merges" / self.merge_digest / weight

    @property
    def static_folder(self) -> Location:
        """Where the merged checkpoint is written; known once α is."""
        assert self.alpha is not None
        return self.store / "static" / self._static_digest(self.alpha.value)

    @property
    def _alpha_setting(self) -> Any:
        """α where it is fixed, else what determines its search beside the merge and the heads."""
        if isinstance(self.recipe.alpha, float):
            return self.recipe.alpha
        images = {t.name: t.facts.validation.sha256 for t in self.tasks if t.facts.validation is not None}
        return {
            "search": self.recipe.alpha,
            "evaluate": self.recipe.evaluate.model_dump(mode="json"),
            "validation": images if self.recipe.alpha == "validation" else None,
        }

    def _static_digest(self, alpha: Any) -> str:
        identity = {
            "merge": self.merge_digest,
            "alpha": alpha,
            "inter_layer": self.recipe.method.inter_layer,
            "model_cfg": self.architecture.model_cfg,
            "preprocess": self.architecture.preprocess_cfg,
            "has_text": self.has_text,
        }
        return digest_of("static", identity)

    def baseline_identity(self, spec: CompareSpec) -> dict[str, Any]:
        """What determines a baseline's weights; the code too, where another distribution brings it."""
        method = baseline(spec.method)
        code = {} if method.code is None else {"code": method.code.identity}
        return {
            "base": self.base.identity,
            "tasks": {task.name: task.facts.checkpoint.identity for task in self.tasks},
            "method": spec.method,
            "coefficient": spec.coefficient or method.coefficient,
            **code,
        }

    def evaluation(self, model: dict[str, Any], name: str) -> Location:
        """Where the accuracy of ``model`` (its identity) on a task's test images is kept."""
        task = self.task(name)
        assert task.facts.test is not None
        identity = {
            "model": model,
            "architecture": self.architecture.identity,
            "test": task.facts.test.sha256,
            "head": self.head_identity(name),
            "evaluate": self.recipe.evaluate.model_dump(mode="json"),
        }
        return self.store / "evaluations" / f"{digest_of('evaluation', identity)}.json"

    def head_identity(self, name: str) -> Any:
        """What determines the head of a task."""
        task = self.task(name)
        return task.facts.head_sha256 or {"base": self.base.identity, **head_identity(task.spec)}

    @property
    def evaluated(self) -> list[str]:
        """Names of the tasks that have labelled test images."""
        return [task.name for task in self.tasks if task.facts.test is not None]

    @property
    def identity(self) -> str:
        """sha256 over everything that determines a published version; equal means up to date.

        Of a searched α it holds what determines the search, so it is known before the search is done.
        """
        heads = {t.name: [t.facts.head_sha256, head_identity(t.spec)] for t in self.tasks}
        tests = {t.name: t.facts.test.sha256 for t in self.tasks if t.facts.test is not None}
        identity = {
            "static": self._static_digest(self._alpha_setting),
            "heads": heads,
            "tests": tests,
            "compare": [self.baseline_identity(spec) for spec in self.recipe.compare],
        }
        if self.recipe.experts is not None:
            proxies = {t.name: t.facts.routing_proxies_sha256 for t in self.tasks}
            settings = self.recipe.experts.model_dump(mode="json")
            identity["experts"] = {"settings": settings, "proxies": proxies}
        return digest_of("artifact", identity)


def make_plan(found: Outline, base: CheckpointFacts, tasks: list[TaskFacts]) -> Plan:
    """Put the outline and the inspections of every input together.

    Raises
    ------
    InputError
        Two tasks with identical updates.
    """
    check_distinct(tasks)
    specs = {spec.name: spec for spec in found.recipe.tasks}
    planned = [
        PlannedTask(
            spec=specs[facts.name],
            facts=facts,
            activation_source=found.activation_sources[facts.name],
        )
        for facts in sorted(tasks, key=lambda facts: facts.name)
    ]
    alpha = found.recipe.alpha
    return Plan(
        alpha=ChosenAlpha(value=alpha, method="fixed") if isinstance(alpha, float) else None,
        recipe=found.recipe,
        architecture=found.architecture,
        base=base,
        base_activation_source=found.base_activation_source,
        tasks=planned,
        rules=found.rules,
        has_text=found.has_text,
    )


def save_plan(plan: Plan) -> str:
    """Keep a plan in its store, under its own digest; returns the URL that tasks are given."""
    location = plan_file(plan)
    location.write_bytes(plan.model_dump_json().encode())
    return location.url


def plan_file(plan: Plan) -> Location:
    """Where :func:`save_plan` keeps a plan."""
    digest = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()
    return plan.store / "plans" / f"{digest}.json"


def load_plan(url: str) -> Plan:
    """Read what :func:`save_plan` kept, its digest verified.

    Raises
    ------
    IntegrityError
        The file is not what was saved.
    InputError
        It names what is not here: a merge method that is not installed on this machine.
    """
    location = Location.parse(url)
    content = location.read_bytes()
    if hashlib.sha256(content).hexdigest() != location.name.removesuffix(".json"):
        raise IntegrityError(f"{location}: is damaged. Delete it and run again.")
    try:
        return Plan.model_validate_json(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InputError(*(f"{location}: cannot be used here: {problem}." for problem in problems)) from None
