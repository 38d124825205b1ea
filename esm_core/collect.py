"""Collection: run a fine-tuned tower on its proxy images and compress every target layer's inputs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.errors import InputError
from esm_core.factor import FactorStream, InputFactor
from esm_core.layers import SMALL_MATRICES, LayerKind, layer_kind


class CollectedLayer(NamedTuple):
    """What a merge needs of one layer's inputs.

    Attributes
    ----------
    inputs : InputFactor
        Compressed inputs, float64.
    mean : Tensor
        ``[d_in]`` float64: the mean input over all tokens and samples (the prototype of ESM++).
    """

    inputs: InputFactor
    mean: Tensor


_CONV, _PROJECTION = (name.removeprefix("visual.") for name in SMALL_MATRICES)


def target_weights(names: Iterable[str], kinds: Sequence[LayerKind]) -> list[str]:
    """The weights among ``names`` whose layer kind is in ``kinds``, sorted."""
    return sorted(name for name in names if layer_kind(name) in kinds)


def collect_inputs(
    tower: nn.Module,
    batches: Iterable[Tensor],
    kinds: Sequence[LayerKind],
    task: str,
) -> dict[str, CollectedLayer]:
    """Run ``tower`` on every batch and compress the inputs of its target layers, ``conv1`` and ``proj``.

    The inputs of ``conv1`` are flattened patches, those of ``proj`` the pooled tokens.

    Parameters
    ----------
    tower : nn.Module
        An open_clip vision tower, on its device and in its precision.
    batches : iterable of Tensor
        ``[B, 3, H, W]`` each, B of any size; moved to the tower's device and dtype here.
    kinds : sequence of LayerKind
        Which layers.
    task : str
        For error messages.

    Returns
    -------
    dict
        ``visual.``-prefixed weight name → :class:`CollectedLayer`, on the tower's device.

    Raises
    ------
    InputError
        NaN or Inf among a layer's inputs, a tower without the layers asked for, or no batch.
    """
    parameters = dict(tower.named_parameters())
    names = target_weights(parameters, kinds)
    missing = sorted(set(kinds) - {layer_kind(name) for name in names})
    if missing:
        raise InputError(f"The vision tower has no {', '.join(missing)} layers to collect.")
    streams = {name: FactorStream(parameters[name].shape[1]) for name in names}
    patch = parameters[_CONV][0].numel()
    streams |= {_CONV: FactorStream(patch), _PROJECTION: FactorStream(parameters[_PROJECTION].shape[0])}

    def add(name: str, inputs: Tensor) -> None:
        if not torch.isfinite(inputs).all():
            raise InputError(
                f"Task {task}: the inputs of visual.{name} hold NaN or Inf on the proxy images. The "
                "checkpoint is broken, or the precision is too low for it; try a wider collect.precision, "
                "float64 at most."
            )
        streams[name].update(inputs)

    reference = next(iter(parameters.values()))
    ran = False
    with _hooked(tower, names, add), torch.inference_mode():
        for images in batches:
            output = tower(images.to(device=reference.device, dtype=reference.dtype))
            add(_PROJECTION, output[0] if isinstance(output, tuple) else output)
            ran = True
    if not ran:
        raise InputError(f"Task {task}: there is no proxy image to collect from.")
    return {f"visual.{name}": CollectedLayer(*stream.result()) for name, stream in streams.items()}


@contextmanager
def _hooked(tower: nn.Module, names: Sequence[str], add: Any) -> Iterator[None]:
    with ExitStack() as stack:
        # Without its projection the tower gives what the projection is given.
        stack.callback(setattr, tower, _PROJECTION, tower.proj)
        setattr(tower, _PROJECTION, None)
        for name in [*names, _CONV]:
            module, tap = _tap(tower, name)

            def hook(module: nn.Module, args: tuple[Tensor, ...], name: str = name, tap: Any = tap) -> None:
                add(name, tap(module, args[0]))

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
