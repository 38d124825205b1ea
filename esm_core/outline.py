"""What a survey found, as far as a plan needs it, and how each weight of the tower is merged."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from esm_core.architecture import Architecture
from esm_core.checkpoints import TensorInfo
from esm_core.layers import layer_kind
from esm_core.merge import merges_essentially
from esm_core.recipe import Recipe
from esm_core.survey import Survey

Rule = Literal["essential", "tsv_m", "mean"]


class Outline(BaseModel):
    """What a survey found, as far as a plan needs it: a value without open files.

    Attributes
    ----------
    rules : dict
        Weight of the vision tower → how it is merged.
    has_text : bool
        Whether the base holds a text tower, which is then published unchanged.
    activation_sources : dict
        Task → how its activation function is known.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    architecture: Architecture
    rules: dict[str, Rule]
    has_text: bool
    base_activation_source: str
    activation_sources: dict[str, str]


def outline(found: Survey) -> Outline:
    """The outline of a survey."""
    return Outline(
        recipe=found.recipe,
        architecture=found.architecture,
        rules={name: _rule(name, info) for name, info in sorted(found.base.tower.tensors.items())},
        has_text=bool(found.text),
        base_activation_source=found.base.activation_source,
        activation_sources={name: task.activation_source for name, task in found.tasks.items()},
    )


def _rule(weight: str, info: TensorInfo) -> Rule:
    if merges_essentially(weight):
        return "essential"
    if len(info.shape) == 2 or layer_kind(weight) is not None:
        return "tsv_m"
    return "mean"
