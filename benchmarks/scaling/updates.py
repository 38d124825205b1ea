"""Random weights and updates whose spectra, norms and common part are those of CLIP fine-tunes."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.layers import LayerKind, layer_kind

SHARED_ENERGY = 0.2
"""Share of a low-rank update's energy in directions that all tasks change."""

NOISE = 0.2
"""Norm of the dense noise beside that of the low-rank part; it makes every update of full rank."""

_RELATIVE_NORMS: dict[LayerKind | None, float] = {
    "attn.in_proj": 0.020,
    "attn.out_proj": 0.015,
    "mlp.c_fc": 0.022,
    "mlp.c_proj": 0.018,
    None: 0.010,
}
"""``‖dW‖ / ‖W‖`` in the middle of the tower; the rest of a tower changes least."""


@dataclass(frozen=True)
class Place:
    """Where a weight is in its tower.

    Attributes
    ----------
    name : str
        Parameter name, with ``visual.``.
    depth : float
        0 in the first block, 1 in the last.
    """

    name: str
    depth: float

    @property
    def relative_norm(self) -> float:
        """``‖dW‖ / ‖W‖``: a mean by kind of layer, times 0.6 in the first block to 1.4 in the last."""
        return _RELATIVE_NORMS[layer_kind(self.name)] * (0.6 + 0.8 * self.depth)


def place_of(name: str, blocks: int) -> Place:
    """The place of a parameter in a tower of so many blocks; 0.5 deep where it is in none."""
    parts = name.split(".")
    if "resblocks" not in parts:
        return Place(name, 0.5)
    return Place(name, int(parts[parts.index("resblocks") + 1]) / max(blocks - 1, 1))


def generator_of(*identity: object) -> torch.Generator:
    """A generator seeded by what is to be made, so that any tensor can be made by itself."""
    digest = hashlib.sha256(repr(identity).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def base_weight(name: str, shape: tuple[int, ...], blocks: int, seed: int) -> Tensor:
    """One weight of a base tower, float32: open_clip's scales, norms of weight about 1.

    The biases of the norms are large in a few dimensions. So every layer's inputs have a strong mean and are
    far from isotropic, as in CLIP, and stay finite at any depth.
    """
    generator = generator_of("base", seed, name)
    noise = torch.randn(shape, generator=generator)
    if ".ln_" in name:
        if name.endswith("weight"):
            return 1 + 0.2 * noise
        strong = torch.rand(shape, generator=generator) < 0.02
        return 0.2 * noise + 4 * strong * noise
    if len(shape) == 1:
        return 0.02 * noise
    fan_in = shape[0] if name == "visual.proj" else int(noise[0].numel())
    residual = layer_kind(name) in ("attn.out_proj", "mlp.c_proj")
    scale = float(fan_in**-0.5)
    return noise * scale * ((2 * blocks) ** -0.5 if residual else 1.0)


def update_of(weight: Tensor, place: Place, task: int, seed: int) -> Tensor:
    """What fine-tuning on a task changes of one weight, float32.

    Parameters
    ----------
    weight : Tensor
        Of the base; any shape.
    place : Place
    task, seed : int
        The same ones give the same update, whatever else is made.

    Notes
    -----
    A matrix gets rank ``min(shape) / 16`` with singular values like ``1 / i``, a part of it in directions
    common to all tasks, and dense noise; anything else noise alone.
    """
    own = generator_of("update", seed, place.name, task)
    update = torch.randn(weight.shape, generator=own)
    if weight.ndim == 2:
        rows, columns = weight.shape
        common = generator_of("common", seed, place.name)
        rank = max(1, min(rows, columns) // 16)
        values = 1 / torch.arange(1, rank + 1)
        # Tasks weigh the common directions differently, and some the other way round.
        mixed = values * (1 + 0.5 * torch.randn(rank, generator=own))
        shared = _of_norm(_low_rank(rows, columns, mixed, common), SHARED_ENERGY**0.5)
        private = _of_norm(_low_rank(rows, columns, values, own), (1 - SHARED_ENERGY) ** 0.5)
        update = shared + private + _of_norm(update, NOISE)
    return _of_norm(update, place.relative_norm * float(weight.norm()))


def _low_rank(rows: int, columns: int, values: Tensor, generator: torch.Generator) -> Tensor:
    left = torch.randn(rows, len(values), generator=generator)
    right = torch.randn(len(values), columns, generator=generator)
    return (left * values) @ right


def _of_norm(tensor: Tensor, norm: float) -> Tensor:
    scaled: Tensor = tensor * (norm / tensor.norm())
    return scaled
