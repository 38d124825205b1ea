"""A rational function that is the inverse square root on an interval."""

import math

import numpy as np
from scipy.special import ellipj, ellipkm1

_ACCURACY = 5e-7
"""Relative error of the function on its interval: as large as that at most, or hardly larger."""


def inverse_root_poles(smallest: float, largest: float) -> list[tuple[float, float]]:
    """``x^(-1/2) ≈ Σ weight / (x + shift)`` for ``x`` in ``[smallest, largest]``, both positive.

    Returns
    -------
    list of (shift, weight)
        All positive, so sums lose no digits; about 12 for an interval over five decades.

    Notes
    -----
    Method 3 of Hale, Higham and Trefethen, "Computing A^α, log(A), and related matrix functions by contour
    integrals" (SIAM J. Numer. Anal. 46, 2008), whose error falls as ``exp(-2π²N / (ln(κ) + 3))``.
    """
    condition = max(largest / smallest, 1.0 + 1e-9)
    ratio = 1.0 / condition
    count = math.ceil(-math.log(_ACCURACY) * (math.log(condition) + 3.0) / (2 * math.pi**2)) + 1
    quarter = float(ellipkm1(ratio))
    points = (np.arange(count) + 0.5) * quarter / count
    sn, cn, dn, _ = ellipj(points, 1.0 - ratio)
    shifts = smallest * (sn / cn) ** 2
    weights = 2.0 * quarter * math.sqrt(smallest) / (math.pi * count) * dn / cn**2
    return list(zip(shifts.tolist(), weights.tolist(), strict=True))
