"""Eigenvalues of symmetric matrices with as many eigenvectors as are wanted: none for an inverse root."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from esm_core.linalg import lapack
from esm_core.linalg.gram import on_lapack
from esm_core.linalg.poles import inverse_root_poles


@dataclass(frozen=True)
class Eigen:
    """The eigenvalues of a symmetric matrix ``[n, n]``, and its eigenvectors as far as they are asked for.

    Attributes
    ----------
    values : Tensor
        ``[n]``, descending.
    rows : Tensor
        Eigenvectors as rows, of the matrix, or of its tridiagonal form where there are reflections.
    reflections : (Tensor, Tensor), optional
        As LAPACK keeps them.
    """

    values: Tensor
    rows: Tensor
    reflections: tuple[Tensor, Tensor] | None

    @staticmethod
    def of(matrix: Tensor) -> "Eigen":
        """Of a symmetric matrix; its upper triangle is read."""
        if matrix.shape[0] > 1 and on_lapack(matrix):
            reflections = matrix.clone(memory_format=torch.contiguous_format)
            diagonal, beside, scales = lapack.tridiagonalise(reflections)
            values, rows = lapack.tridiagonal_vectors(diagonal, beside)
            return Eigen(values.flip(0), rows.flip(0), (reflections, scales))
        values, vectors = torch.linalg.eigh(matrix, UPLO="U")
        return Eigen(values.flip(0), vectors.mT.flip(0), None)

    def leading(self, count: int) -> Tensor:
        """The first ``count`` eigenvectors, orthonormal columns ``[n, count]``."""
        wanted = self.rows[:count]
        if self.reflections is not None:
            wanted = wanted.clone()
            lapack.rotate(*self.reflections, wanted, back=True)
        return wanted.mT


_SHIFT = 3e-7
"""Added before an inverse, beside the largest eigenvalue: more than a reduction in float32 is wrong by."""

_FEW = 64
"""Columns solved at once: few enough to stay in a core's cache from pole to pole."""


@dataclass(frozen=True)
class Tridiagonal:
    """A symmetric matrix ``G = Q T Qᵀ``: its functions on a few columns cost no eigenvectors.

    Attributes
    ----------
    diagonal, beside : Tensor
        ``T``, ``[n]`` and ``[n - 1]``, float64.
    reflections, scales : Tensor
        ``Q``, as LAPACK keeps it, in the precision of the reduction.
    values : Tensor
        ``[n]``, ascending, float64.
    """

    diagonal: Tensor
    beside: Tensor
    reflections: Tensor
    scales: Tensor
    values: Tensor

    @staticmethod
    def of(matrix: Tensor) -> "Tridiagonal":
        """Reduce ``[n, n]`` on the CPU, which is overwritten; its upper triangle is read."""
        diagonal, beside, scales = lapack.tridiagonalise(matrix)
        diagonal, beside = diagonal.to(torch.float64), beside.to(torch.float64)
        return Tridiagonal(diagonal, beside, matrix, scales, lapack.tridiagonal_values(diagonal, beside))

    def smallest(self, count: int) -> Tensor:
        """Vectors of the ``count`` smallest eigenvalues, ascending, ``[n, count]``, as exact as ``Q``."""
        if count == 0:
            return self.diagonal.new_zeros(self.diagonal.numel(), 0)
        wanted = {"select": "i", "select_range": (0, count - 1), "lapack_driver": "stemr"}
        _, vectors = eigh_tridiagonal(self.diagonal.numpy(), self.beside.numpy(), **wanted)
        rows = torch.from_numpy(vectors).mT.to(self.scales.dtype).contiguous()
        lapack.rotate(self.reflections, self.scales, rows, back=True)
        return rows.mT.to(torch.float64)

    def inverse_root(self, columns: Tensor, smallest: float) -> Tensor:
        """``G^(-1/2) X`` for ``X``, ``[n, c]``, without part in the directions below ``smallest``.

        Parameters
        ----------
        columns : Tensor
        smallest : float
            Eigenvalue from which on the root is meant; below, the result is only bounded.
        """
        factors = [
            (weight, lapack.factor_tridiagonal(self.diagonal + shift, self.beside))
            for shift, weight in inverse_root_poles(smallest, float(self.values[-1]))
        ]
        return self._between_rotations(columns, lambda rows: _sum_of_solutions(factors, rows))

    def inverse(self, columns: Tensor) -> Tensor:
        """``G⁻¹ X``, to a thousandth where eigenvalues are at least 3e-6 of the largest; below, only bounded.

        By ``(G + s)⁻¹``, which is defined whatever rounding made of the smallest eigenvalues, and what it
        leaves, ``s / (λ + s)``, taken up twice.
        """
        shift = max(_SHIFT * float(self.values[-1]), -3 * float(self.values[0]))
        factor = lapack.factor_tridiagonal(self.diagonal + shift, self.beside)

        def solved(rows: Tensor) -> Tensor:
            total = torch.zeros_like(rows)
            for _ in range(3):
                total.mul_(shift).add_(rows)
                lapack.solve_tridiagonal(factor, total)
            return total

        return self._between_rotations(columns, solved)

    def _between_rotations(self, columns: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        rows = columns.mT.to(self.scales.dtype).contiguous()
        lapack.rotate(self.reflections, self.scales, rows, back=False)
        for few in torch.split(rows, _FEW):
            few.copy_(function(few.to(torch.float64)))
        lapack.rotate(self.reflections, self.scales, rows, back=True)
        return rows.mT


def _sum_of_solutions(factors: Sequence[tuple[float, tuple[Tensor, Tensor]]], rows: Tensor) -> Tensor:
    total = torch.zeros_like(rows)
    for weight, factor in factors:
        part = rows.clone()
        lapack.solve_tridiagonal(factor, part)
        total.add_(part, alpha=weight)
    return total
