"""The recipe: one YAML file that says what to merge, how, and where the result goes."""

import math
import re
import reprlib
from typing import Annotated, Literal, Self, get_args

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from esm_core.layers import ESSENTIAL_KINDS, LAYER_KINDS, LayerKind
from esm_core.methods import check_method, describe_methods
from esm_core.names import NAME_RULE
from esm_core.names import check_name as check_name
from esm_core.settings import ExpertSettings, GateSettings, MergeSettings

Activation = Literal["gelu", "quick_gelu"]
AlphaSearch = Literal["label_free", "validation"]

MAX_ALPHA = 4.0


def _check_device(device: str) -> str:
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is not a torch device; use cpu, cuda or cuda:N") from error
    return device


def _check_alpha(value: object) -> object:
    if value in get_args(AlphaSearch):
        return value
    try:
        number = float(value) if isinstance(value, int | float | str) and value is not True else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MAX_ALPHA or value is False:
        raise ValueError(
            f"must be a number from 0 to {MAX_ALPHA:g}, or one of {', '.join(get_args(AlphaSearch))} "
            f"(got {reprlib.repr(value)})"
        )
    return number


def _check_version(value: object) -> str:
    match = re.fullmatch(r"v?0*([1-9]\d{0,8})", str(value)) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool):
        raise ValueError(
            f"must be a version: a number or a label such as v000003 (got {reprlib.repr(value)})"
        )
    return f"v{int(match[1]):06d}"


Name = Annotated[str, AfterValidator(check_name)]
Method = Annotated[str, AfterValidator(check_method)]
Label = Annotated[
    str, PlainValidator(_check_version, json_schema_input_type=Annotated[int, Field(ge=1)] | str)
]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Device = Annotated[str, AfterValidator(_check_device)]
# One validator for both forms: a union of types would report a wrong value once per type.
Alpha = Annotated[
    float | AlphaSearch,
    PlainValidator(
        _check_alpha, json_schema_input_type=Annotated[float, Field(ge=0, le=MAX_ALPHA)] | AlphaSearch
    ),
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaseSpec(_Section):
    """The checkpoint every fine-tune started from."""

    architecture: str | None = Field(
        None,
        description="An open_clip model name, or a path to an `open_clip_config.json`. Unset: as the "
        "checkpoint's folder says, where open_clip has written it.",
    )
    checkpoint: str = Field(
        description="Full CLIP or vision tower: a .safetensors or .pt file, or an open_clip folder "
        "(`local-dir:` is allowed in front)."
    )
    activation: Activation | None = Field(
        None,
        description="What it was trained with, where the file does not say it. A mismatch with the "
        "architecture is refused.",
    )


class ZeroShotSpec(_Section):
    """A head made of class names, by the base model's text tower."""

    classes: list[str] = Field(min_length=2, description="Class names, in label order.")
    templates: list[str] = Field(
        default=["a photo of a {}."], min_length=1, description="Prompts with `{}` where the class name goes."
    )

    @model_validator(mode="after")
    def _templates_have_a_place(self) -> Self:
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} where the class name goes")
        return self


class TaskSpec(_Section):
    """One fine-tune and the images that belong to it."""

    name: Name = Field(description=f"Unique name of the task: {NAME_RULE}.")
    checkpoint: str = Field(description="The fine-tuned checkpoint; file or folder, as for the base.")
    proxy: str = Field(
        description="Unlabelled proxy images, of the kind the task is for: image folder, webdataset tar (or "
        "a folder of them), Parquet."
    )
    validation: str | None = Field(
        None,
        description="Labelled validation images. Class subfolders in sorted order are labels 0, 1, ...; tar "
        "members `.cls`; a Parquet column `label`.",
    )
    test: str | None = Field(
        None, description="Labelled test images, as for `validation`: they make the accuracy table."
    )
    head: str | None = Field(
        None,
        description="Linear head: safetensors with `weight` (classes × embedding) and optional `bias`, for "
        "L2-normalised features.",
    )
    zero_shot: ZeroShotSpec | None = Field(
        None,
        description="Class names and templates to build a head from, instead of `head`; needs a base with a "
        "text tower.",
    )
    activation: Activation | None = Field(
        None,
        description="What it was trained with, where the file does not say it. A mismatch with the "
        "architecture is refused.",
    )
    sha256: Digest | None = Field(
        None,
        description="What the checkpoint's file must have, else the merge is refused; unset for any. Set by "
        "`tasks_from`, or by hand.",
    )
    landed: Label | None = Field(
        None, description="Its version in the registry: written by esmerge for lineage. It decides nothing."
    )

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if self.head is not None and self.zero_shot is not None:
            raise ValueError("give head or zero_shot, not both")
        return self


class TasksFrom(_Section):
    """Fine-tunes taken from a registry: the newest version of each, or the one that is pinned."""

    registry: str = Field(description="Registry: a path, file:// or s3:// URL.")
    include: list[str] = Field(
        default=["*"],
        min_length=1,
        description="Names of tasks, or patterns such as `cars-*`. Each must match something.",
    )
    exclude: list[str] = Field(
        default=[], description="Names or patterns of tasks to leave out of those included."
    )
    pins: dict[Name, Label] = Field(
        default={}, description="Task: version to take instead of the newest, such as `3` or `v000003`."
    )


class CollectSpec(_Section):
    """How layer inputs are collected from the fine-tunes."""

    layers: tuple[LayerKind, ...] = Field(
        LAYER_KINDS,
        min_length=1,
        description="Layer kinds that may be collected. A merge needs all but `attn.out_proj`, experts those "
        "they have; a recipe without one of these is refused. What is collected is what merge and experts "
        "need: a kind listed beyond that changes nothing.",
    )
    batch_size: int = Field(32, ge=1, description="Images per forward pass.")
    device: Device = Field("cpu", description="torch device of the forward pass, such as `cpu` or `cuda`.")
    precision: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the forward pass."
    )


class FuseSpec(_Section):
    """Where the linear algebra runs (in float64, but for one step on the CPU: docs/method.md)."""

    device: Device = Field("cpu", description="torch device, such as `cpu` or `cuda`.")
    keep_bases: bool = Field(
        True,
        description="Keep every fine-tune's decompositions in the store, so that a merge with one more "
        "decomposes only that one. Changes no bit of a result.",
    )


class EvaluateSpec(_Section):
    """How the accuracy table is made, and how alpha is searched."""

    device: Device = Field("cpu", description="torch device, such as `cpu` or `cuda`.")
    batch_size: int = Field(64, ge=1, description="Images per forward pass.")


class CompareSpec(_Section):
    """A baseline to evaluate beside ESM."""

    method: Method = Field(json_schema_extra=describe_methods)
    coefficient: float | None = Field(
        None, gt=0, description="Merging coefficient; unset means the method's default."
    )


class Recipe(_Section):
    """What to merge, how, and where the result goes."""

    name: Name = Field(description=f"Name of the artifact that is published: {NAME_RULE}.")
    store: str = Field(
        description="Where intermediate results and published versions go: a path, `file://` or `s3://` URL."
    )
    base: BaseSpec
    tasks: list[TaskSpec] = Field(
        default=[], description="The fine-tunes, two or more, those of `tasks_from` counted."
    )
    tasks_from: TasksFrom | None = Field(
        None,
        description="Fine-tunes of a registry, the newest of each, beside those in `tasks`; a name in "
        "both is refused.",
    )
    samples: int = Field(32, ge=1, description="Proxy images per task.")
    seed: int = Field(0, ge=0, description="Seed of the choice of proxy images from the sorted listing.")
    alpha: Alpha = Field(
        "label_free",
        description="A number in [0, 4], twice the released code's merging coefficient; or how to search it: "
        "`label_free` on the proxy images, `validation` by accuracy on the validation images, which every "
        "task then needs, with a head.",
    )
    method: MergeSettings = Field(MergeSettings(), description="Settings of the merge method.")
    experts: ExpertSettings | None = Field(
        None, description="Routed low-rank experts (ESM++); `{}` for the defaults, unset for none."
    )
    promote_if: GateSettings | None = Field(
        None, description="When a merge promotes its own version to a channel; unset means never."
    )
    collect: CollectSpec = CollectSpec()
    fuse: FuseSpec = FuseSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    compare: list[CompareSpec] = Field(
        default_factory=list, description="Baselines for the accuracy table, each at most once."
    )

    @model_validator(mode="after")
    def _collects_what_a_merge_needs(self) -> Self:
        experts = set(self.experts.layers) if self.experts else set()
        missing = sorted((ESSENTIAL_KINDS | experts) - set(self.collect.layers))
        if missing:
            raise ValueError(f"collect.layers: this merge needs {', '.join(missing)} too")
        return self

    @model_validator(mode="after")
    def _tasks_make_a_merge(self) -> Self:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks: duplicate task name(s) {', '.join(twice)}; give each task its own name")
        if self.tasks_from is None and len(names) < 2:
            found = "one task only" if names else "there are none (nor tasks_from)"
            raise ValueError(f"tasks: {found}; a merge needs at least two fine-tunes")
        methods = [spec.method for spec in self.compare]
        if len(set(methods)) < len(methods):
            raise ValueError("compare: a method is listed twice")
        return self
