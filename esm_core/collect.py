"""Collection: run a fine-tuned tower on its proxy images and compress its layers' inputs, or shifts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.errors import InputError
from esm_core.experts.check import map_shape
from esm_core.factor import FactorStream, InputFactor, ShiftFactor, block_rows
from esm_core.layers import PROJECTION, SMALL_MATRICES, layer_kind


class CollectedLayer(NamedTuple):
    """What is kept of one layer's inputs.

    Attributes
    ----------
    inputs : InputFactor
        Compressed inputs, float64.
    mean : Tensor
        ``[d_in]`` float64: the mean input over all tokens and samples (the prototype of ESM++).
    """

    inputs: InputFactor
    mean: Tensor


class Streams(NamedTuple):
    """What a forward pass leaves of its layers, not finished yet: every layer is taken once and let go.

    Attributes
    ----------
    inputs, shifts : dict
        Weight → stream of its inputs, or of its shift.
    """

    inputs: dict[str, FactorStream]
    shifts: dict[str, FactorStream]

    def take_inputs(self, weight: str) -> CollectedLayer:
        return CollectedLayer(*self.inputs.pop(weight).result())

    def take_shift(self, weight: str) -> ShiftFactor:
        factor, _ = self.shifts.pop(weight).result()
        return ShiftFactor(*factor)


Updates = Mapping[str, Callable[[], Tensor]]

_CONV, _PROJECTION = (name.removeprefix("visual.") for name in SMALL_MATRICES)


def collect_inputs(
    tower: nn.Module, batches: Iterable[Tensor], inputs: Iterable[str], shifts: Updates, task: str
) -> Streams:
    """Run ``tower`` on every batch and compress the inputs, or the shifts, of the layers asked for.

    The inputs of ``conv1`` are flattened patches, those of ``proj`` the pooled tokens.

    Parameters
    ----------
    tower : nn.Module
        An open_clip vision tower, on its device and in its precision.
    batches : iterable of Tensor
        ``[B, 3, H, W]`` each, B of any size; moved to the tower's device and dtype here.
    inputs : iterable of str
        ``visual.``-prefixed weights whose inputs are wanted.
    shifts : mapping
        ``visual.``-prefixed weight whose shift ``X dWᵀ`` is wanted → what gives its ``dW``,
        ``[d_out, d_in]``; called for every batch.
    task : str
        For error messages.

    Returns
    -------
    Streams
        On the tower's device, by ``visual.``-prefixed weight.

    Raises
    ------
    InputError
        NaN or Inf among a layer's inputs, a tower without the weights asked for, or no batch.
    """
    parameters = {f"visual.{name}": parameter for name, parameter in tower.named_parameters()}
    wanted = sorted({*inputs, *shifts})
    missing = [weight for weight in wanted if weight not in parameters]
    if missing:
        raise InputError(f"The vision tower has no {', '.join(missing)} to collect from.")
    streams = Streams(
        {w: FactorStream(map_shape(w, tuple(parameters[w].shape))[1]) for w in sorted(set(inputs))},
        {w: FactorStream(parameters[w].shape[0]) for w in sorted(shifts)},
    )

    def add(weight: str, rows: Tensor) -> None:
        if not torch.isfinite(rows).all():
            raise InputError(
                f"Task {task}: the inputs of {weight} hold NaN or Inf on the proxy images. The "
                "checkpoint is broken, or the precision is too low for it; try a wider collect.precision, "
                "float64 at most."
            )
        if weight in streams.inputs:
            streams.inputs[weight].update(rows)
        if weight in streams.shifts:
            for shift in _shift(rows, shifts[weight]()):
                streams.shifts[weight].update(shift)

    reference = next(iter(parameters.values()))
    ran = False
    with _hooked(tower, [weight.removeprefix("visual.") for weight in wanted], add), torch.inference_mode():
        for images in batches:
            output = tower(images.to(device=reference.device, dtype=reference.dtype))
            if PROJECTION in streams.inputs:
                add(PROJECTION, output[0] if isinstance(output, tuple) else output)
            ran = True
    if not ran:
        raise InputError(f"Task {task}: there is no proxy image to collect from.")
    return streams


def _shift(inputs: Tensor, update: Tensor) -> Iterator[Tensor]:
    """``X dWᵀ`` in float64, some rows at a time: all of them would be the largest matrix of a collection."""
    transposed = update.to(device=inputs.device, dtype=torch.float64).mT
    for rows in torch.split(inputs.reshape(-1, transposed.shape[0]), block_rows(transposed.shape[1])):
        yield rows.to(torch.float64) @ transposed


@contextmanager
def _hooked(tower: nn.Module, names: Sequence[str], add: Callable[[str, Tensor], None]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in names:
            if name == _PROJECTION:
                # Without its projection the tower gives what the projection is given.
                stack.callback(setattr, tower, _PROJECTION, tower.proj)
                setattr(tower, _PROJECTION, None)
                continue
            module, tap = _tap(tower, name)

            def hook(module: nn.Module, args: tuple[Tensor, ...], name: str = name, tap: Any = tap) -> None:
                add(f"visual.{name}", tap(module, args[0]))

            handle = module.register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        yield


def _tap(tower: nn.Module, name: str) -> tuple[nn.Module, Any]:
    """The module to hook for a weight, and the function from its input to the layer's input."""
    owner = tower.get_submodule(name.rpartition(".")[0])
    if name == _CONV:
        return owner, patches
    if layer_kind(name) == "attn.out_proj":
        attention = tower.get_submodule(name.rpartition(".out_proj.")[0])
        if isinstance(attention, nn.MultiheadAttention):
            return attention, _attention_context
    return owner, _batch_first


def patches(conv: nn.Module, images: Tensor) -> Tensor:
    """What ``conv1`` multiplies its flattened weight with: ``[B, 3, H, W]`` → ``[B, patches, 3 p²]``."""
    assert isinstance(conv, nn.Conv2d)
    return functional.unfold(images, conv.kernel_size, stride=conv.stride).mT


def _batch_first(module: nn.Module, inputs: Tensor) -> Tensor:
    return inputs if getattr(module, "batch_first", True) else inputs.transpose(0, 1)


def _attention_context(attention: nn.Module, inputs: Tensor) -> Tensor:
    """What ``nn.MultiheadAttention`` feeds its ``out_proj``, which it never calls as a module.

    ``[B, L, D]`` → ``[B, L, D]``: self-attention without mask, heads concatenated.
    """
    assert isinstance(attention, nn.MultiheadAttention)
    rows = _batch_first(attention, inputs)
    packed = functional.linear(rows, attention.in_proj_weight, attention.in_proj_bias)
    batch, tokens, width = rows.shape
    shape = (batch, tokens, attention.num_heads, width // attention.num_heads)
    query, key, value = (part.reshape(shape).transpose(1, 2) for part in packed.chunk(3, dim=-1))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
