"""The expert of one weight and task: the part of its residual that matters most on the task's inputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from esm_core.collect import CollectedLayer
from esm_core.linalg import numerical_rank


class Expert(NamedTuple):
    """A task's low-rank residual of one weight, float64.

    Attributes
    ----------
    down : Tensor
        ``A``, ``[r, d_in]``.
    up : Tensor
        ``B``, ``[d_out, r]``; orthonormal columns, zero beyond the numerical rank of the shift.
    offset : Tensor
        ``[d_out]``: what ``B A`` leaves out for the mean input, for the bias; zero where not centred.
    kept : float
        Share of the shift's energy that is kept, in [0, 1].
    """

    down: Tensor
    up: Tensor
    offset: Tensor
    kept: float


def decompose(
    residual: Tensor, layer: CollectedLayer, rank: int, shrinkage: float = 0.0, centred: bool = False
) -> Expert:
    """Essential subspace decomposition of a residual ``δW = W_t - W_static`` (arXiv 2606.19164).

    ``B`` holds the first ``rank`` principal directions of the outputs ``X δWᵀ`` and ``A = Bᵀ δW``: the
    smallest error over all output bases of that rank. Two departures, each off by default: ``shrinkage``
    and ``centred``.

    Parameters
    ----------
    residual : Tensor
        ``[d_out, d_in]``, on the device of ``layer``.
    layer : CollectedLayer
        Inputs of the fine-tune on its proxies.
    rank : int
    shrinkage : float
        Adds this multiple of the mean eigenvalue to the inputs' second moment: few proxies know it
        badly, and a routed model's inputs are not quite the fine-tune's. Infinity would be an SVD.
    centred : bool
        Takes the principal directions about the mean and leaves the mean's error in ``offset``.

    Notes
    -----
    A symmetric eigenproblem of size ``min(d_out, d_in)``, on the device of the inputs.
    """
    delta = residual.to(torch.float64)
    basis, reduced = torch.linalg.qr(delta) if delta.shape[0] > delta.shape[1] else (None, delta)
    factor, rows = layer.inputs
    mean = layer.mean if centred else torch.zeros_like(layer.mean)
    shift = factor.to(torch.float64) @ reduced.mT
    about = reduced @ mean
    moment = shift.mT @ shift / rows - torch.outer(about, about)
    spread = (factor.square().sum() / rows - mean.square().sum()) / delta.shape[1]
    moment += shrinkage * spread * (reduced @ reduced.mT)
    energies, directions = torch.linalg.eigh(moment)
    energies, directions = energies.flip(0).clamp(min=0), directions.flip(1)
    used = min(rank, numerical_rank(energies, max(rows, *delta.shape)))
    up = directions[:, :used] if basis is None else basis @ directions[:, :used]
    down = up.mT @ delta
    offset = delta @ mean - up @ (down @ mean)
    total = float(energies.sum())
    kept = float(energies[:used].sum()) / total if total else 1.0
    pad = torch.nn.functional.pad
    return Expert(pad(down, (0, 0, 0, rank - used)), pad(up, (0, rank - used)), offset, kept)
