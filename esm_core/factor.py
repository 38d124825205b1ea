"""Exact compression of a layer's inputs: only their second moment matters.

With ``R`` such that ``RᵀR = XᵀX``, ``R dWᵀ`` has the singular values and right singular vectors of
the activation shift ``X dWᵀ`` (method notes, *Only the second moment of the inputs matters*). ``R``
is streamed with QR, so a layer's activations take at most ``d_in`` rows however many samples ran.
"""

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
    same rows in the same order give the same bits.

    Parameters
    ----------
    width : int
        ``d_in`` of the layer.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._block = max(width, 512)
        self._pending: list[Tensor] = []
        self._pending_rows = 0
        self._factor: Tensor | None = None
        self._sum: Tensor | None = None
        self._rows = 0

    def update(self, inputs: Tensor) -> None:
        """Add ``inputs``, ``[..., d_in]`` of any floating dtype, on any one device."""
        rows = inputs.detach().reshape(-1, self._width).to(torch.float64)
        while rows.shape[0]:
            taken = rows[: self._block - self._pending_rows]
            self._pending.append(taken.clone())
            self._pending_rows += taken.shape[0]
            rows = rows[taken.shape[0] :]
            if self._pending_rows == self._block:
                self._fold()

    def _fold(self) -> None:
        block = torch.cat(self._pending)
        self._pending, self._pending_rows = [], 0
        self._rows += block.shape[0]
        total = block.sum(0)
        self._sum = total if self._sum is None else self._sum + total
        stacked = block if self._factor is None else torch.cat([self._factor, block])
        self._factor = compress(stacked)

    def result(self) -> tuple[InputFactor, Tensor]:
        """The factor (float64) and the mean input ``[d_in]`` (float64). Ends the stream.

        Raises
        ------
        ValueError
            No row was ever added.
        """
        if self._pending_rows:
            self._fold()
        if self._factor is None or self._sum is None:
            raise ValueError("no inputs were added to the stream")
        return InputFactor(self._factor, self._rows), self._sum / self._rows


def compress(inputs: Tensor) -> Tensor:
    """``R``, ``[min(n, d_in), d_in]``, with ``RᵀR = XᵀX``; ``inputs`` itself where it is short.

    Parameters
    ----------
    inputs : Tensor
        ``[n, d_in]``, float64.
    """
    if inputs.shape[0] <= inputs.shape[1]:
        return inputs
    triangle: Tensor = torch.linalg.qr(inputs, mode="r").R
    return triangle
