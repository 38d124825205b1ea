"""The expert of one weight and task: the part of its residual that matters most on the task's inputs."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from esm_core.esd import decompose_update
from esm_core.factor import InputFactor


class Expert(NamedTuple):
    """A task's low-rank residual of one weight, float64.

    Attributes
    ----------
    down : Tensor
        ``A``, ``[r, d_in]``.
    up : Tensor
        ``B``, ``[d_out, r]``; orthonormal columns, zero beyond the numerical rank of the shift.
    kept : float
        Share of the shift's energy that ``B A`` keeps, in [0, 1].
    """

    down: Tensor
    up: Tensor
    kept: float


def decompose(residual: Tensor, inputs: InputFactor, rank: int) -> Expert:
    """Essential subspace decomposition of a residual ``δW = W_t - W_static`` (arXiv 2606.19164).

    ``B`` holds the first ``rank`` principal directions of the outputs ``X δWᵀ`` and ``A = Bᵀ δW``: the
    smallest error over all output bases of that rank.

    Parameters
    ----------
    residual : Tensor
        ``[d_out, d_in]``, on the device of ``inputs``.
    inputs : InputFactor
        Inputs of the fine-tune on its proxies.
    rank : int
    """
    up, down, energies, _ = decompose_update(residual, inputs, rank)
    total = float(energies.sum())
    kept = float(energies[:rank].sum()) / total if total else 1.0
    missing = rank - up.shape[1]
    return Expert(functional.pad(down, (0, 0, 0, missing)), functional.pad(up, (0, missing)), kept)
