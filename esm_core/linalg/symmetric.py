"""Eigenvalues of symmetric matrices with as many eigenvectors as are wanted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.linalg import lapack
from esm_core.linalg.gram import on_lapack


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
