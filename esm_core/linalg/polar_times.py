"""A polar factor's product with a few columns, without the factor."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.linalg.band import Band
from esm_core.linalg.gram import on_lapack
from esm_core.linalg.polar import nearly_polar, small_part
from esm_core.linalg.poles import inverse_root_poles
from esm_core.linalg.resolvent import Resolvents
from esm_core.linalg.weakest import Weakest, weakest

_SIZE = 1024
"""Side from which an inverse root on few columns is cheaper without eigenvectors."""

_BLUR = 1.2e-7
"""What float32 changes an eigenvalue of the Gram matrix by, beside the root mean square of all of them."""

_MARGIN = 1.1
"""Room above the largest eigenvalue, which is found a little too small."""

_SHIFT = 3e-7
"""Added before an inverse, beside the largest eigenvalue: more than a reduction in float32 is wrong by."""

_WANTED = 3.3e-7
"""Error of a product, relative, that is aimed at, for each of ``n`` directions: as random errors add up."""

_TRACE = 5e-9
"""Image of what a weak direction holds of strong ones after one correction, beside the largest value."""

_MORE = 3
"""Corrections more, of the directions that need them."""

_ROWS = 512
"""Rows of a matrix that are taken to float64 at once: few enough to stay in a core's cache."""


def polar_times(matrix: Tensor, columns: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """``polar(A) X`` and the mean singular value of ``A``, without the polar factor where that is cheaper.

    Parameters
    ----------
    matrix : Tensor
        ``A``, ``[m, n]``, float64 or float32.
    columns : Tensor
        ``X``, ``[n, c]``, float64 or float32.
    product : Tensor
        :func:`~esm_core.linalg.gram` of ``A`` in float32, ``[n, n]``; overwritten.

    Returns
    -------
    times : Tensor
        ``[m, c]``, float64.
    mean : Tensor
        No dimension, float64.

    Notes
    -----
    Where ``X`` has far fewer columns than ``A``, ``(AᵀA)^(-1/2)`` is applied to it as a rational function
    of a band. That is done in float32, but for the directions that float32 tells badly: those
    are taken out before, and their part is made in float64 from their images under ``A``. The product is
    within 5e-5 (Frobenius, relative) of the one in float64 throughout; a merged weight, of which an update
    is a few percent, changes by about as much as rounding to float32 changes it.
    """
    root = _Root.of(product) if working_precision(matrix, columns.shape[1]) == torch.float32 else None
    if root is None:
        factor, values = nearly_polar(matrix.to(torch.float64), matrix.dtype)
        return factor @ columns.to(torch.float64), values.mean()
    rest, image = root.weak_directions(matrix)
    weak = rest.to(columns.dtype)
    met = weak.mT @ columns
    times = matrix.to(torch.float32) @ root.inverse_root(torch.addmm(columns, weak, met, alpha=-1))
    left, values, right = small_part(image, math.sqrt(root.largest), matrix.dtype)
    times.addmm_(left.to(torch.float32), (right @ met.to(torch.float64)).to(torch.float32))
    return times.to(torch.float64), (root.strong_sum + values.sum()) / matrix.shape[1]


def working_precision(matrix: Tensor, count: int) -> torch.dtype:
    """What :func:`polar_times` computes in, for a matrix ``[m, n]`` and ``count`` columns.

    Float32 where the columns are few beside ``n``: more digits of them than that have no use.
    """
    rows, size = matrix.shape
    few = on_lapack(matrix) and _SIZE <= size <= rows and 2 * count <= size
    return torch.float32 if few else torch.float64


@dataclass(frozen=True)
class _Root:
    """A Gram matrix ``G = Q B Qᵀ`` with what its inverse root on strong directions takes.

    Attributes
    ----------
    band : Band
    largest : float
        Eigenvalue.
    resolvents : Resolvents
    weights : Tensor
        ``Σ weight (B + s)⁻¹`` is ``B^(-1/2)`` on strong directions, and bounded on weak ones.
    weak : Weakest
    strong_sum : Tensor
        The sum of all singular values of strong directions, float64.
    """

    band: Band
    largest: float
    resolvents: Resolvents
    weights: Tensor
    weak: Weakest
    strong_sum: Tensor

    @staticmethod
    def of(product: Tensor) -> "_Root | None":
        """Of a Gram matrix, which is overwritten; None where too many of its directions are weak.

        Raises
        ------
        RuntimeError
            NaN or Inf in the matrix.
        """
        band = Band.of(product)
        blur = _BLUR * band.root_mean_square()
        if not math.isfinite(blur):
            raise RuntimeError("a matrix to be orthogonalised holds NaN or Inf")
        if blur == 0:
            return None
        largest = band.largest()
        wanted = _wanted(band)
        # A direction below this would be too much by itself.
        least = blur / (wanted * math.sqrt(band.size))
        poles = inverse_root_poles(least, _MARGIN * largest)
        resolvents = Resolvents.of(band, [shift for shift, _ in poles])
        if resolvents is None:
            return None
        shifts, weights = resolvents.shifts, torch.tensor([w for _, w in poles], dtype=torch.float64)
        weak = weakest(band, resolvents, blur, wanted)
        if weak is None:
            return None
        # B^(1/2) = B B^(-1/2), and B (B + s)⁻¹ = 1 - s (B + s)⁻¹.
        roots = (weights * (band.size - shifts * resolvents.traces)).sum()
        of_weak = (weights * (weak.values[:, None] / (weak.values[:, None] + shifts))).sum()
        return _Root(band, largest, resolvents, weights, weak, roots - of_weak)

    def inverse_root(self, columns: Tensor) -> Tensor:
        """``G^(-1/2) X`` in float32, for ``X``, ``[n, c]``, without part in weak directions."""
        blocks = self.band.blocked(columns.to(torch.float32))
        found = self.band.plain(blocks)
        self.band.rotate(found, back=False)
        self.resolvents.sum(self.weights, blocks)
        self.band.rotate(found, back=True)
        return found

    def weak_directions(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The weak right singular directions, ``[n, k]``, and their images, float64.

        Those of the reduction hold a trace of strong directions, whose images drown theirs. A correction, by
        what ``AᵀA`` in float64 says of them, leaves a thousandth of it; the faintest directions take more.
        """
        vectors = self.weak.vectors.to(torch.float32)
        self.band.rotate(vectors, back=True)
        found = vectors.to(torch.float64)
        count = found.shape[1]
        if count == 0:
            return found, matrix.new_zeros(matrix.shape[0], 0, dtype=torch.float64)
        inverse = self._slightly_shifted()
        found, image = self._corrected(matrix, found, inverse)
        errors = _TRACE * math.sqrt(self.largest) / image.norm(dim=0)
        wanted = _wanted(self.band)
        if errors.square().sum() <= self.band.size * wanted**2:
            return found, image
        faint = int((errors > wanted).sum())
        weak = found[:, :faint]
        for _ in range(_MORE):
            weak, _ = self._corrected(matrix, weak, inverse)
        found = torch.linalg.qr(torch.cat([weak, found[:, faint:]], dim=1)).Q
        return found, _image(matrix, found)

    def _corrected(self, matrix: Tensor, found: Tensor, inverse: Resolvents) -> tuple[Tensor, Tensor]:
        """Directions that hold less of strong ones, orthonormal, and their images."""
        # What is small can go on in float32: the images, but not the products that they are made by.
        rounded, image = matrix.to(torch.float32), _image(matrix, found)
        seen = (rounded.mT @ image.to(torch.float32)).to(torch.float64)
        trace = self._inverse(seen - found @ (found.mT @ seen), inverse)
        corrected = found - trace.to(torch.float64)
        image -= (rounded @ trace).to(torch.float64)
        # Nearly orthonormal already.
        triangle = torch.linalg.cholesky(corrected.mT @ corrected, upper=True)
        back = torch.linalg.inv(triangle)
        return corrected @ back, image @ back

    def _slightly_shifted(self) -> Resolvents:
        """``(B + s)⁻¹``, which is defined whatever rounding made of the smallest eigenvalues."""
        shift = max(_SHIFT * self.largest, -3 * float(self.weak.values[0]))
        inverse = Resolvents.of(self.band, [shift])
        assert inverse is not None
        return inverse

    def _inverse(self, columns: Tensor, inverse: Resolvents) -> Tensor:
        """``G⁻¹ X`` in float32, to a thousandth where eigenvalues are at least 3e-6 of the largest.

        By ``(G + s)⁻¹``, and what it leaves, ``s / (λ + s)``, taken up twice.
        """
        blocks = self.band.blocked(columns.to(torch.float32))
        self.band.rotate(self.band.plain(blocks), back=False)
        rest = blocks.to(torch.float64)
        total = torch.zeros_like(rest)
        for _ in range(3):
            inverse.sum(torch.ones(1, dtype=torch.float64), rest)
            total += rest
            rest *= inverse.shifts
        found = self.band.plain(total.to(torch.float32))
        self.band.rotate(found, back=True)
        return found


def _wanted(band: Band) -> float:
    return _WANTED * math.sqrt(band.size)


def _image(matrix: Tensor, columns: Tensor) -> Tensor:
    return torch.cat([rows.to(torch.float64) @ columns for rows in torch.split(matrix, _ROWS)])
