"""Energy curves: which share of a spectrum its strongest directions hold."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

POINTS = 32
"""Points of a curve at most, evenly spread on a logarithmic scale."""

DIGITS = 4
"""Decimals that shares and overlaps are kept with: more than a plot or a table shows."""


def curve_ranks(full: int) -> list[int]:
    """Numbers of directions a curve is kept at: ascending, from 1 to ``full``."""
    return [int(rank) for rank in np.unique(np.geomspace(1, full, POINTS).round())]


def energy_shares(energies: Tensor, ranks: Sequence[int]) -> list[float] | None:
    """Share of the energy in the first directions, one value per rank; None where there is no energy.

    Parameters
    ----------
    energies : Tensor
        ``[k]``, descending, not negative. Directions beyond ``k`` have none.
    ranks : sequence of int
        As :func:`curve_ranks` gives them.
    """
    sums = energies.cumsum(0).tolist()
    if not sums or sums[-1] <= 0:
        return None
    return [round(min(sums[min(rank, len(sums)) - 1] / sums[-1], 1.0), DIGITS) for rank in ranks]
