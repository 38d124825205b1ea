"""Inverses ``(B + s)⁻¹`` of one band for several shifts at once, and sums of them on a few columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from esm_core.linalg.band import WIDTH, Band

_HELD = 3584
"""Columns times shifts solved at once: more take more memory, fewer make every product slower."""

ALIGNED = 16
"""Columns of a product are a multiple of this where they can be: others are up to twice as slow."""


@dataclass(frozen=True)
class Resolvents:
    """Block ``L D Lᵀ`` of ``B + s`` for ``p`` shifts.

    Attributes
    ----------
    inverses : Tensor
        Of the blocks of ``D``, ``[m, p, b, b]`` float64.
    below : Tensor
        Of ``L``, ``[m - 1, p, b, b]``.
    shifts : Tensor
        ``[p]``.
    size : int
        ``n``, of the matrix that was reduced to ``B``.
    """

    inverses: Tensor
    below: Tensor
    shifts: Tensor
    size: int

    @staticmethod
    def of(band: Band, shifts: Sequence[float]) -> "Resolvents | None":
        """Factor; None where a shift does not make the band positive definite."""
        given = torch.tensor(shifts, dtype=torch.float64)
        blocks, count = band.diagonal.shape[0], given.numel()
        inverses = band.diagonal.new_empty(blocks, count, WIDTH, WIDTH)
        below = band.diagonal.new_empty(blocks - 1, count, WIDTH, WIDTH)
        shift = given[:, None, None] * torch.eye(WIDTH, dtype=torch.float64)
        pivots = band.diagonal[0] + shift
        for block in range(blocks):
            root, wrong = torch.linalg.cholesky_ex(pivots)
            if wrong.any():
                return None
            inverses[block] = torch.cholesky_inverse(root)
            if block + 1 < blocks:
                beside = band.below[block]
                below[block] = beside @ inverses[block]
                pivots = band.diagonal[block + 1] + shift - below[block] @ beside.mT
        return Resolvents(inverses, below, given, band.size)

    @cached_property
    def traces(self) -> Tensor:
        """Of every inverse, ``[p]``; rows that only fill up the last block are left out."""
        block = self.inverses[-1]
        last = self.size - (self.inverses.shape[0] - 1) * WIDTH
        traces = block.diagonal(dim1=1, dim2=2)[:, :last].sum(1)
        for index in range(self.below.shape[0] - 1, -1, -1):
            beside = self.below[index]
            block = self.inverses[index] + beside.mT @ (block @ beside)
            traces = traces + block.diagonal(dim1=1, dim2=2).sum(1)
        return traces

    def sum(self, weights: Tensor, columns: Tensor) -> None:
        """``Σ weight (B + s)⁻¹ X`` in place, on ``X`` in blocks ``[m, b, c]``, in its precision."""
        below = self.below.to(columns.dtype)
        inverses = (self.inverses * weights[:, None, None]).to(columns.dtype)
        blocks, shifts = inverses.shape[:2]
        pieces = max(1, -(-columns.shape[2] * shifts // _HELD))
        width = aligned(-(-columns.shape[2] // pieces))
        # One piece of memory for all: to be given it anew each time costs as much as what is done in it.
        forward = columns.new_empty(blocks * shifts * WIDTH * width)
        for few in torch.split(columns, width, dim=2):
            room = forward[: blocks * shifts * WIDTH * few.shape[2]]
            _sum_into(few, inverses, below, room.view(blocks, shifts, WIDTH, few.shape[2]))


def aligned(count: int) -> int:
    """The next multiple of :data:`ALIGNED`."""
    return -(-count // ALIGNED) * ALIGNED


def _sum_into(columns: Tensor, inverses: Tensor, below: Tensor, forward: Tensor) -> None:
    blocks, shifts = inverses.shape[:2]
    forward[0] = columns[0]
    for block in range(1, blocks):
        start = columns[block].expand(shifts, -1, -1)
        torch.baddbmm(start, below[block - 1], forward[block - 1], alpha=-1, out=forward[block])
    found = torch.bmm(inverses[-1], forward[-1])
    torch.sum(found, 0, out=columns[-1])
    for block in range(blocks - 2, -1, -1):
        found = torch.bmm(inverses[block], forward[block]).baddbmm_(below[block].mT, found, alpha=-1)
        torch.sum(found, 0, out=columns[block])
