"""The experts of an artifact as they are stored: ``experts.safetensors`` and ``routing.json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from esm_core.errors import InputError, IntegrityError
from esm_core.experts.names import linear_map
from esm_core.settings import RouterName
from esm_core.stages import FORMAT, check_format
from esm_core.storage import Location

EXPERTS_NAME, ROUTING_NAME = "experts.safetensors", "routing.json"

Scope = Literal["image", "layer"]


class RoutingConfig(BaseModel):
    """``routing.json``: what the experts are and how an image finds its own.

    Attributes
    ----------
    tasks : tuple of str
        In the order of every tensor's first axis.
    layers : tuple of str
        Layer kinds with low-rank experts.
    rank : int
        Their rank.
    extras : bool
        Whether norms, biases, embeddings, ``conv1`` and ``proj`` are per task too.
    router : str
        Name of the router.
    scope : str
        ``image``: decided once per image; ``layer``: in every routed layer.
    left_static : tuple of str
        Parameters of the tower that no expert changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    rank: int
    extras: bool
    router: RouterName
    scope: Scope
    left_static: tuple[str, ...]


@dataclass(frozen=True)
class Experts:
    """The experts of ``T`` tasks.

    Attributes
    ----------
    config : RoutingConfig
    low_rank : dict
        Weight (``visual.`` name) → ``(A, B)``, ``[T, r, d_in]`` and ``[T, d_out, r]``: task t adds
        ``B_t A_t`` to :func:`linear_map` of the static weight.
    deltas : dict
        Parameter → ``[T, *shape]``: task t adds ``delta_t``.
    router : dict
        Scorer (weight name of a layer, or empty for the one of the image) → its tensors.
    """

    config: RoutingConfig
    low_rank: Mapping[str, tuple[Tensor, Tensor]]
    deltas: Mapping[str, Tensor]
    router: Mapping[str, Mapping[str, Tensor]]

    def index(self, task: str) -> int:
        """Place of a task; :class:`InputError` names the tasks there are."""
        if task not in self.config.tasks:
            raise InputError(f"no expert for task {task!r}; there are {', '.join(self.config.tasks)}.")
        return self.config.tasks.index(task)


def dense_weights(experts: Experts, static: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """The weights of one task's expert, materialised: ``static`` plus its deltas, in ``static``'s dtypes.

    Parameters
    ----------
    static : mapping
        ``visual.`` name → published static weight.
    """
    index = experts.index(task)
    dense = dict(static)
    for weight, (down, up) in experts.low_rank.items():
        delta = up[index].double() @ down[index].double()
        changed = linear_map(weight, static[weight]).double() + delta
        dense[weight] = linear_map(weight, changed).reshape(static[weight].shape).to(static[weight].dtype)
    for name, delta in experts.deltas.items():
        dense[name] = (static[name].double() + delta[index].double()).to(static[name].dtype)
    return {name: tensor.contiguous() for name, tensor in dense.items()}


def read_experts(config: bytes, tensors: bytes, source: Location) -> Experts:
    """Experts from the bytes of their two files, float32.

    Raises
    ------
    NewerFormatError
        Written by a newer esmerge.
    IntegrityError
        Not what esmerge writes.
    """
    try:
        raw = json.loads(config)
        check_format(source / ROUTING_NAME, int(raw["format"]))
        parsed = RoutingConfig.model_validate(raw)
    except (ValueError, KeyError, TypeError, OverflowError, ValidationError) as error:
        raise IntegrityError(
            f"{source / ROUTING_NAME}: is not a routing.json that esmerge writes."
        ) from error
    try:
        stored = load_safetensors(tensors)
    except SafetensorError as error:
        raise IntegrityError(f"{source / EXPERTS_NAME}: is no safetensors file.") from error
    low_rank: dict[str, dict[str, Tensor]] = {}
    deltas: dict[str, Tensor] = {}
    router: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.rpartition("/")
        if kind == "router":
            router.setdefault(name, {})[part] = tensor
        elif kind == "delta":
            deltas[rest] = tensor.to(torch.float32)
        elif kind == "low_rank" and part in ("A", "B"):
            low_rank.setdefault(name, {})[part] = tensor.to(torch.float32)
        else:
            raise IntegrityError(f"{source / EXPERTS_NAME}: tensor {key!r} is none that esmerge writes.")
    halves = sorted(name for name, parts in low_rank.items() if len(parts) < 2)
    if halves:
        raise IntegrityError(f"{source / EXPERTS_NAME}: misses A or B of {', '.join(halves)}.")
    pairs = {name: (parts["A"], parts["B"]) for name, parts in low_rank.items()}
    return Experts(parsed, pairs, deltas, router)
