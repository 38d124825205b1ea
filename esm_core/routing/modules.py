"""Parts of a routed model: banks of experts that change what a static module computes, per sample."""

import torch
from torch import Tensor, nn


class LowRankBank(nn.Module):
    """One linear map's experts: adds ``B_t (A_t x) + b_t`` of each sample's task to the static output.

    Never forms ``B_t A_t``. The bias rides along as one more direction whose coordinate is always 1, so
    the output is written once.

    Parameters
    ----------
    down : Tensor
        ``A``, ``[T, r, d_in]``.
    up : Tensor
        ``B``, ``[T, d_out, r]``.
    bias : Tensor, optional
        ``[T, d_out]``.
    """

    down: Tensor
    up: Tensor
    constant: Tensor

    def __init__(self, down: Tensor, up: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        constant = torch.zeros(down.shape[1])
        if bias is not None:
            down = torch.cat([down, down.new_zeros(len(down), 1, down.shape[2])], dim=1)
            up = torch.cat([up, bias[:, :, None].to(up)], dim=2)
            constant = torch.cat([constant, torch.ones(1)])
        self.register_buffer("down", down.mT.contiguous())
        self.register_buffer("up", up.mT.contiguous())
        self.register_buffer("constant", constant.to(down))

    def forward(self, static: Tensor, inputs: Tensor, chosen: Tensor) -> Tensor:
        """``static`` ``[B, L, d_out]`` plus the experts' part for ``inputs`` ``[B, L, d_in]``.

        Adds into ``static``: a second tensor of its size costs more than the arithmetic.
        """
        coordinates = torch.baddbmm(self.constant, inputs, self.down.index_select(0, chosen))
        # Autocast leaves in-place operations alone.
        return static.baddbmm_(coordinates.to(static.dtype), self.up.index_select(0, chosen).to(static.dtype))


class OffsetBank(nn.Module):
    """Experts of a vector or table that is added: class token, positional embedding, a bias alone.

    Parameters
    ----------
    deltas : Tensor
        ``[T, *shape]``.
    """

    deltas: Tensor

    def __init__(self, deltas: Tensor) -> None:
        super().__init__()
        self.register_buffer("deltas", deltas.contiguous())

    def forward(self, static: Tensor, chosen: Tensor) -> Tensor:
        """``static``, broadcast against ``[B, *shape]``, plus each sample's delta."""
        return static + self.deltas.index_select(0, chosen).to(static.dtype)


class NormBank(nn.Module):
    """Experts of a layer norm's scale and offset.

    Parameters
    ----------
    scale, offset : Tensor
        Whole values, static included: ``[T, d]``.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("offset", offset.contiguous())

    def forward(self, norm: nn.LayerNorm, inputs: Tensor, chosen: Tensor) -> Tensor:
        """Layer norm of ``inputs`` ``[B, L, d]`` with each sample's scale and offset."""
        plain = nn.functional.layer_norm(inputs, norm.normalized_shape, None, None, norm.eps)
        scale, offset = (t.index_select(0, chosen)[:, None] for t in (self.scale, self.offset))
        return torch.addcmul(offset, plain, scale).to(inputs.dtype)
