"""The eigenvectors of a band that belong to its smallest eigenvalues."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from esm_core.linalg.band import Band
from esm_core.linalg.resolvent import ALIGNED, Resolvents, aligned

_SPARE = 1.2
"""Vectors sought for each that is wanted, so that the last that is wanted is told from the rest."""

_NEAR = 0.25
"""Shift of the filter's inverse, beside the eigenvalue from which on it damps: smaller is sharper."""

_DEGREE = 12
"""Of the filter: what is wanted grows by 1e6 or more beside what it damps, in float64 without loss."""

_ENOUGH = 1e-4
"""What the vectors may hold of others, beside what a product with an inverse root may be wrong by."""

_PASSES = 3


class Weakest(NamedTuple):
    """Invariant subspace of the smallest eigenvalues.

    Attributes
    ----------
    values : Tensor
        ``[k]``, ascending, float64.
    vectors : Tensor
        ``[n, k]`` float64, orthonormal.
    """

    values: Tensor
    vectors: Tensor


def weakest(band: Band, resolvents: Resolvents, blur: float, allowed: float) -> Weakest | None:
    """The eigenvectors of ``B`` that rounding tells too badly for an inverse root.

    Parameters
    ----------
    band : Band
        ``n`` eigenvalues, positive but for rounding.
    resolvents : Resolvents
        Of shifts from the smallest eigenvalues that matter up to the largest: they tell how many are sought.
    blur : float
        What rounding may have changed an eigenvalue by. An inverse root is wrong by ``blur / λ`` there.
    allowed : float
        The root mean square of that over the other ``n`` eigenvectors.

    Returns
    -------
    Weakest or None
        None where they are more than about a third of all.

    Notes
    -----
    A subspace iteration with Chebyshev polynomials of ``(B + s)⁻¹`` (Saad, "Numerical Methods for Large
    Eigenvalue Problems", chapter 5), from random vectors that are the same every time. It ends when what
    couples the vectors to the others is too small to matter to an inverse root.
    """
    shifts, counts = _counts(resolvents)
    errors = np.sqrt(counts / (3 * band.size)) * blur / shifts
    expected = float(np.interp(-allowed, -errors, counts))
    sought = aligned(int(_SPARE * expected)) + ALIGNED
    while 2 * sought <= band.size:
        cut = float(np.interp(sought, counts, shifts))
        same = torch.Generator().manual_seed(0)
        found = torch.randn(band.size, sought, generator=same).to(torch.float64)
        for _ in range(_PASSES):
            values, found, residuals = _filtered(band, found, cut)
            wrong = blur**2 * (values.clamp(min=blur) ** -2).flip(0).cumsum(0).flip(0)
            wrong += blur**2 * _others(resolvents, values)
            least = int((wrong > band.size * allowed**2).sum())
            if least == sought:
                break
            for count in (aligned(least), least):
                enough = _ENOUGH * math.sqrt(band.size) * float(values[min(count, sought - 1)])
                if count < sought and residuals[:count].norm() <= enough:
                    return Weakest(values[:count], found[:, :count])
            cut = float(values[-1])
        sought = aligned(3 * sought // 2)
    return None


def _counts(resolvents: Resolvents) -> tuple[np.ndarray, np.ndarray]:
    """Shifts, ascending, and about how many eigenvalues are below each.

    ``s tr (B + s)⁻¹`` counts an eigenvalue λ as ``s / (λ + s)``: as many as there are up to ``s``, times
    π / 2 where eigenvalues grow as the square of their number, as they do at the lower end of such spectra.
    """
    return resolvents.shifts.numpy(), (2 / math.pi * resolvents.shifts * resolvents.traces).numpy()


def _others(resolvents: Resolvents, values: Tensor) -> float:
    """About ``Σ 1 / λ²`` of the eigenvalues beyond the ascending first ones, by what traces say of them."""
    edge = max(float(values[-1]), float(resolvents.shifts[0]))
    logs = np.interp(math.log(edge), resolvents.shifts.log().numpy(), resolvents.traces.log().numpy())
    trace = math.exp(float(logs)) - float((values.clamp(min=0) + edge).reciprocal().sum())
    return max(trace, 0.0) / (2 * edge)


def _filtered(band: Band, columns: Tensor, cut: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values, ascending, Ritz vectors and the norms of their residuals, after one filter."""
    shift = _NEAR * cut
    inverse = Resolvents.of(band, [shift])
    assert inverse is not None
    scale = torch.full((1,), 2 * (cut + shift), dtype=torch.float64)
    before = band.blocked(columns)
    now = before.clone()
    inverse.sum(scale, now)
    now -= before
    for _ in range(_DEGREE - 1):
        after = now.clone()
        inverse.sum(2 * scale, after)
        before, now = now, after.sub_(now, alpha=2).sub_(before)
    basis = torch.linalg.qr(band.plain(now)).Q
    seen = band.plain(band.times(band.blocked(basis)))
    values, turn = torch.linalg.eigh(basis.mT @ seen)
    vectors = basis @ turn
    return values, vectors, (seen @ turn - vectors * values).norm(dim=0)
