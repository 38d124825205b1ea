"""Exact compression of a layer's inputs: only their second moment matters.

With ``R`` such that ``RᵀR = XᵀX``, ``R dWᵀ`` has the singular values and right singular vectors of
the activation shift ``X dWᵀ`` (method notes, *Only the second moment of the inputs matters*). ``R``
is streamed with QR, so a layer's activations take at most ``d_in`` rows however many samples ran.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class InputFactor(NamedTuple):
    """A layer's inputs, exactly compressed.

    Attributes
    ----------
    factor : Tensor
        ``[m, d_in]`` with ``factorᵀ factor = XᵀX``, ``m <= max(rows, d_in)``. Raw inputs are a factor too.
    rows : int
        Rows of ``X``: tokens over all samples.
    """

    factor: Tensor
    rows: int


class ShiftFactor(NamedTuple):
    """A layer's activation shift ``X dWᵀ``, exactly compressed: less than its inputs where ``d_out < d_in``.

    Attributes
    ----------
    factor : Tensor
        ``[m, d_out]`` with ``factorᵀ factor = dW XᵀX dWᵀ``, float64.
    rows : int
        Rows of ``X``: tokens over all samples.
    """

    factor: Tensor
    rows: int


class FactorStream:
    """Accumulates the factor, the row count and the mean of a layer's inputs, batch by batch.

    Rows are taken in blocks of a fixed size, whatever the size of the batches they arrive in, so the
    same rows in the same order give the same bits. Until a block is full they wait in their own dtype, and
    between blocks the factor is a packed triangle: a stream holds ``4 d_in²`` bytes and one block.

    Parameters
    ----------
    width : int
        ``d_in`` of the layer.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._block = block_rows(width)
        self._pending: list[Tensor] = []
        self._pending_rows = 0
        self._triangle: Tensor | None = None
        self._sum: Tensor | None = None
        self._rows = 0

    def update(self, inputs: Tensor) -> None:
        """Add ``inputs``, ``[..., d_in]`` of any floating dtype, on any one device."""
        rows = inputs.detach().reshape(-1, self._width)
        while rows.shape[0]:
            taken = rows[: self._block - self._pending_rows]
            self._pending.append(taken.clone())
            self._pending_rows += taken.shape[0]
            rows = rows[taken.shape[0] :]
            if self._pending_rows == self._block:
                self._triangle = pack(self._fold())

    def _fold(self) -> Tensor:
        """The factor of all rows so far; none is pending afterwards."""
        known = 0 if self._triangle is None else self._width
        size, device = (known + self._pending_rows, self._width), self._pending[0].device
        stacked = torch.empty(size, dtype=torch.float64, device=device)
        if self._triangle is not None:
            stacked[:known] = unpack(self._triangle)
        filled = known
        for rows in self._pending:
            stacked[filled : filled + rows.shape[0]] = rows
            filled += rows.shape[0]
        self._rows += self._pending_rows
        self._pending, self._pending_rows, self._triangle = [], 0, None
        total = stacked[known:].sum(0)
        self._sum = total if self._sum is None else self._sum + total
        return compress(stacked)

    def result(self) -> tuple[InputFactor, Tensor]:
        """The factor (float64) and the mean input ``[d_in]`` (float64). Ends the stream.

        Raises
        ------
        ValueError
            No row was ever added.
        """
        if self._pending_rows:
            factor = self._fold()
        elif self._triangle is not None:
            factor, self._triangle = unpack(self._triangle), None
        else:
            raise ValueError("no inputs were added to the stream")
        assert self._sum is not None
        return InputFactor(factor, self._rows), self._sum / self._rows


def block_rows(width: int) -> int:
    """How many rows of ``width`` a stream takes at once.

    Every block costs a QR that goes through the triangle of those before: with three widths a tenth to a
    sixth more than one QR of all rows. Wide layers take two, since there the rows that wait are what fills
    the memory.
    """
    return max(3 * width if width <= 1024 else 2 * width, 512)


def compress(inputs: Tensor) -> Tensor:
    """``R``, ``[min(n, d_in), d_in]``, with ``RᵀR = XᵀX``; ``inputs`` itself where it is short.

    Upper triangular, its lower half exactly zero, where there are more rows than columns.

    Parameters
    ----------
    inputs : Tensor
        ``[n, d_in]``, float64.
    """
    if inputs.shape[0] <= inputs.shape[1]:
        return inputs
    triangle: Tensor = torch.linalg.qr(inputs, mode="r").R
    return triangle


def pack(triangle: Tensor) -> Tensor:
    """The upper half of an upper triangular ``[d, d]``, row by row: ``[d (d + 1) / 2]``."""
    return triangle[_upper(triangle.shape[0], triangle.device)]


def unpack(packed: Tensor) -> Tensor:
    """The ``[d, d]`` that :func:`pack` was given, bit for bit.

    Raises
    ------
    ValueError
        No triangle has that many values.
    """
    side = (math.isqrt(8 * packed.numel() + 1) - 1) // 2
    if side * (side + 1) // 2 != packed.numel():
        raise ValueError(f"{packed.numel()} values are no triangle")
    triangle = packed.new_zeros(side, side)
    triangle[_upper(side, packed.device)] = packed
    return triangle


def _upper(side: int, device: torch.device) -> Tensor:
    return torch.ones(side, side, dtype=torch.bool, device=device).triu_()
