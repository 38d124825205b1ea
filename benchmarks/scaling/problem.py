"""The layers that are measured in memory: one of each type of a tower, with realistic updates and inputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.fine_tunes import SAMPLES
from benchmarks.scaling.updates import base_weight, generator_of, place_of, update_of
from esm_core.architecture import load_architecture, tower_shapes
from esm_core.layers import layer_kind
from esm_core.merge import merges_essentially
from esm_core.storage import Location

_COMMON_MEAN = 1.5
_TASK_MEAN = 0.5
_MIXED = 64


@dataclass(frozen=True)
class LayerProblem:
    """One layer of a tower and what several tasks change of it.

    Attributes
    ----------
    weight : str
        Parameter name, with ``visual.``.
    d_out, d_in : int
    rows : int
        Tokens of all proxy images of one task.
    tasks : int
    blocks : int
        Of the tower.
    seed : int
    """

    weight: str
    d_out: int
    d_in: int
    rows: int
    tasks: int
    blocks: int
    seed: int = 0

    @property
    def kind(self) -> str:
        return str(layer_kind(self.weight))

    @property
    def essential(self) -> bool:
        """Whether the layer is decomposed in its essential subspace; by singular vectors otherwise."""
        return merges_essentially(self.weight)

    @property
    def keeps_shift(self) -> bool:
        """Whether the factor of the shift is smaller than that of the inputs."""
        return self.essential and self.d_out < self.d_in

    def with_tasks(self, tasks: int) -> "LayerProblem":
        return replace(self, tasks=tasks)

    @cached_property
    def updates(self) -> list[Tensor]:
        """Every task's update, float32."""
        base = base_weight(self.weight, (self.d_out, self.d_in), self.blocks, self.seed)
        place = place_of(self.weight, self.blocks)
        return [update_of(base, place, task, self.seed) for task in range(self.tasks)]

    def inputs(self) -> Iterator[Tensor]:
        """Every task's raw inputs ``[rows, d_in]``, float32, one at a time.

        A strong mean, most of it common to the tasks, and variances that fall like 1 / i along directions
        that are no axes.
        """
        common = torch.randn(self.d_in, generator=generator_of("mean", self.seed, self.weight))
        deviations = torch.arange(1, self.d_in + 1) ** -0.5
        deviations = deviations * (self.d_in / deviations.square().sum()).sqrt()
        for task in range(self.tasks):
            generator = generator_of("inputs", self.seed, self.weight, task)
            own = torch.randn(self.d_in, generator=generator)
            rows = torch.randn(self.rows, self.d_in, generator=generator) * deviations
            yield _turned(rows, self) + _COMMON_MEAN * common + _TASK_MEAN * own


def _turned(rows: Tensor, problem: LayerProblem) -> Tensor:
    """``rows`` times one orthogonal matrix of the layer, the same for all tasks: a block reflector."""
    generator = generator_of("turn", problem.seed, problem.weight)
    count = min(_MIXED, problem.d_in)
    frame = torch.linalg.qr(torch.randn(problem.d_in, count, generator=generator)).Q
    turned: Tensor = rows - 2 * (rows @ frame) @ frame.mT
    return turned


def layer_problems(tower: str, tasks: int, seed: int = 0) -> list[LayerProblem]:
    """One layer of each type, from the middle of an open_clip tower."""
    architecture = load_architecture(tower, Location.parse("/"))
    shapes = tower_shapes(architecture)
    vision: dict[str, Any] = architecture.model_cfg["vision_cfg"]
    blocks = int(vision["layers"])
    rows = SAMPLES * shapes["visual.positional_embedding"][0]
    middle = f"visual.transformer.resblocks.{blocks // 2}."
    return [
        LayerProblem(name, shape[0], shape[1], rows, tasks, blocks, seed)
        for name, shape in shapes.items()
        if name.startswith(middle) and layer_kind(name) is not None
    ]
