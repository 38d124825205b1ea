"""Routing as research code does it: every image's own dense weight update, formed and applied."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.experts import Experts


class DenseTower(nn.Module):
    """The published layers' experts as dense updates ``[B, d_out, d_in]``, formed for every batch.

    Each layer gathers its images' ``B_t`` and ``A_t``, multiplies them and adds ``x (B_t A_t)ᵀ``. All
    else is what the routed tower does too: the same router on the same tokens, fused attention.

    Parameters
    ----------
    static : nn.Module
        open_clip's tower.
    experts : Experts
        On the published layers alone.
    router : nn.Module
        Decides once per image.
    chunk : int
        Images at a time: at 32 the update of the widest layer of a ViT-B takes 0.3 GB, at 128 1.2 GB.
    """

    def __init__(self, static: Any, experts: Experts, router: nn.Module, chunk: int = 32) -> None:
        super().__init__()
        self.static, self.experts, self.router, self.chunk = static, experts, router, chunk

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` → ``[B, embed_dim]``."""
        return torch.cat([self._chunk(part) for part in torch.split(images, self.chunk)])

    def _chunk(self, images: Tensor) -> Tensor:
        blocks = self.static.transformer.resblocks
        x = self.static._embeds(images)
        chosen = self.router(blocks[0].ln_1(x)).argmax(dim=1)
        for index, block in enumerate(blocks):
            name = f"visual.transformer.resblocks.{index}"
            x = x + self._attention(f"{name}.attn.in_proj_weight", block.attn, block.ln_1(x), chosen)
            normed = block.ln_2(x)
            hidden = block.mlp.c_fc(normed) + self._change(f"{name}.mlp.c_fc.weight", normed, chosen)
            x = x + block.mlp.c_proj(block.mlp.gelu(hidden))
        pooled, _ = self.static._pool(x)
        features: Tensor = pooled @ self.static.proj
        return features

    def _attention(self, weight: str, attn: Any, x: Tensor, chosen: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        packed = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias) + self._change(
            weight, x, chosen
        )
        heads = packed.view(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        joined = mixed.transpose(1, 2).reshape(batch, tokens, width)
        return functional.linear(joined, attn.out_proj.weight, attn.out_proj.bias)

    def _change(self, weight: str, x: Tensor, chosen: Tensor) -> Tensor:
        down, up = self.experts.low_rank[weight]
        update = torch.bmm(up[chosen], down[chosen])
        return torch.bmm(x, update.mT)
