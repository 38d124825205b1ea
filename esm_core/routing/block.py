"""A residual attention block of an open_clip tower with experts, whichever attention module it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.errors import InputError
from esm_core.experts import Experts, bias_of
from esm_core.routing.modules import LowRankBank, NormBank, OffsetBank

Choose = Callable[[str, Tensor], Tensor]
"""Weight name and layer input ``[B, L, d_in]`` → each sample's expert, ``[B]`` int64."""

Linear = LowRankBank | OffsetBank


def linear_bank(experts: Experts, weight: str) -> Linear | None:
    """The bank of a linear map and its bias; None where no expert changes it."""
    pair, bias = experts.low_rank.get(weight), experts.deltas.get(bias_of(weight))
    if pair is not None and (pair[0].any() and pair[1].any()):
        return LowRankBank(*pair, bias)
    return OffsetBank(bias[:, None]) if bias is not None and bias.any() else None


def norm_bank(experts: Experts, name: str, norm: nn.Module) -> NormBank | None:
    """The bank of a layer norm; None where no expert changes it."""
    changes = [experts.deltas.get(f"{name}.{part}") for part in ("weight", "bias")]
    if all(change is None or not change.any() for change in changes):
        return None
    assert isinstance(norm, nn.LayerNorm)
    own = (norm.weight, torch.zeros_like(norm.weight) if norm.bias is None else norm.bias)
    scale, offset = (
        static.detach().to(change) + change if change is not None else static.detach().expand(1, -1)
        for static, change in zip(own, changes, strict=True)
    )
    count = len(experts.config.tasks)
    return NormBank(scale.expand(count, -1), offset.expand(count, -1))


def apply_norm(norm: Any, bank: NormBank | None, inputs: Tensor, chosen: Tensor | None) -> Tensor:
    """A layer norm, with its experts where there are any."""
    if bank is None or chosen is None:
        normed: Tensor = norm(inputs)
        return normed
    routed: Tensor = bank(norm, inputs, chosen)
    return routed


class BlockExperts(nn.Module):
    """The experts of one block. Holds no static weight: the block is given with each call.

    Parameters
    ----------
    experts : Experts
    prefix : str
        Name of the block, ``visual.transformer.resblocks.N``.
    block : nn.Module
        The static block.

    Raises
    ------
    InputError
        The block's attention is none this can route through.
    """

    def __init__(self, experts: Experts, prefix: str, block: Any) -> None:
        super().__init__()
        if getattr(block.attn, "logit_scale", None) is not None:
            raise InputError(f"{prefix}: scaled cosine attention cannot be routed; load without experts.")
        self.names = {
            "in_proj": f"{prefix}.attn.in_proj_weight",
            "out_proj": f"{prefix}.attn.out_proj.weight",
            "c_fc": f"{prefix}.mlp.c_fc.weight",
            "c_proj": f"{prefix}.mlp.c_proj.weight",
        }
        self.in_proj, self.out_proj, self.c_fc, self.c_proj = (
            linear_bank(experts, weight) for weight in self.names.values()
        )
        self.ln_1 = norm_bank(experts, f"{prefix}.ln_1", block.ln_1)
        self.ln_2 = norm_bank(experts, f"{prefix}.ln_2", block.ln_2)

    def forward(self, block: Any, x: Tensor, choose: Choose, chosen: Tensor | None) -> Tensor:
        """``x`` ``[B, L, d]`` → ``[B, L, d]``, as open_clip's blocks do.

        Parameters
        ----------
        choose : callable
            Each sample's expert in a layer.
        chosen : Tensor, optional
            ``[B]``: the experts of the norms, where one is chosen for the whole image.
        """
        attended = self._attention(block.attn, apply_norm(block.ln_1, self.ln_1, x, chosen), choose)
        x = x + block.ls_1(block.ln_attn(attended) if hasattr(block, "ln_attn") else attended)
        hidden = self._linear("c_fc", block.mlp.c_fc, apply_norm(block.ln_2, self.ln_2, x, chosen), choose)
        hidden = block.mlp.gelu(hidden)
        if hasattr(block.mlp, "ln"):
            hidden = block.mlp.ln(hidden)
        changed: Tensor = x + block.ls_2(self._linear("c_proj", block.mlp.c_proj, hidden, choose))
        return changed

    def _attention(self, attn: Any, x: Tensor, choose: Choose) -> Tensor:
        batch, tokens, width = x.shape
        packed = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        packed = self._routed("in_proj", packed, x, choose)
        shape = (batch, tokens, 3, attn.num_heads, width // attn.num_heads)
        query, key, value = packed.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(attn, "ln_q"):
            query, key = attn.ln_q(query), attn.ln_k(key)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        if getattr(attn, "head_scale", None) is not None:
            mixed = mixed * attn.head_scale
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, width)
        if hasattr(attn, "ln_inner"):
            mixed = attn.ln_inner(mixed)
        return self._linear("out_proj", attn.out_proj, mixed, choose)

    def _linear(self, part: str, static: Any, x: Tensor, choose: Choose) -> Tensor:
        # Not called as a module: nn.MultiheadAttention's out_proj is not meant to be.
        return self._routed(part, functional.linear(x, static.weight, static.bias), x, choose)

    def _routed(self, part: str, static: Tensor, x: Tensor, choose: Choose) -> Tensor:
        bank = getattr(self, part)
        if bank is None:
            return static
        chosen = choose(self.names[part], x)
        out: Tensor = bank(static, chosen) if isinstance(bank, OffsetBank) else bank(static, x, chosen)
        return out
