"""A symmetric matrix reduced to a band: that is mostly products, unlike a reduction to three diagonals."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from esm_core.linalg import lapack

WIDTH = 48
"""Side of the band's blocks: with larger ones products are faster, and solves slower. It decides the bits."""

_STRIP = 384
"""Rows of a symmetric matrix that a product takes at once: few enough to be in a cache when seen again."""


class Reflections(NamedTuple):
    """``I - V T Vᵀ`` on the last rows of a matrix.

    Attributes
    ----------
    start : int
        The first of these rows.
    vectors : Tensor
        ``V`` as rows, ``[k, n - start]``.
    triangle : Tensor
        ``T``, ``[k, k]``, upper.
    """

    start: int
    vectors: Tensor
    triangle: Tensor

    def joined(self, later: "Reflections") -> "Reflections":
        """Both as one; the other ones come after these, and begin below."""
        padded = torch.nn.functional.pad(later.vectors, (later.start - self.start, 0))
        beside = -self.triangle @ (self.vectors @ padded.mT) @ later.triangle
        upper = torch.cat([self.triangle, beside], dim=1)
        lower = torch.cat([torch.zeros_like(beside.mT), later.triangle], dim=1)
        return Reflections(self.start, torch.cat([self.vectors, padded]), torch.cat([upper, lower]))


class _Update(NamedTuple):
    """``A - V Wᵀ - W Vᵀ`` that is still to be made, both as rows ``[k, n]``."""

    vectors: Tensor
    partners: Tensor

    def applied(self, rows: Tensor) -> Tensor:
        """The first rows of the updated matrix, of those of the matrix."""
        count = rows.shape[0]
        seen = torch.cat([self.vectors, self.partners])
        met = torch.cat([self.partners[:, :count], self.vectors[:, :count]])
        return torch.addmm(rows, met.mT, seen, alpha=-1)

    def taken_from(self, seen: Tensor, vectors: Tensor) -> Tensor:
        """The matrix's product with ``vectors``, as rows, made the updated one's, in place."""
        seen.addmm_(vectors @ self.vectors.mT, self.partners, alpha=-1)
        return seen.addmm_(vectors @ self.partners.mT, self.vectors, alpha=-1)

    def after(self, count: int) -> "_Update":
        """Of the matrix without its first rows and columns."""
        return _Update(self.vectors[:, count:], self.partners[:, count:])

    def joined(self, other: "_Update") -> "_Update":
        return _Update(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Band:
    """A symmetric matrix ``G = Q B Qᵀ``, ``[n, n]``, with ``B`` block tridiagonal.

    Attributes
    ----------
    diagonal, below : Tensor
        Blocks of ``B``, of side ``b``, ``[m, b, b]`` and ``[m - 1, b, b]``, float64; the last ones are filled
        up with zeros, so that ``B`` has ``m b`` rows, of which those from ``n`` on meet no other.
    reflections : list of Reflections
        ``Q`` is their product, in the precision of the reduction.
    size : int
        ``n``.
    """

    diagonal: Tensor
    below: Tensor
    reflections: list[Reflections]
    size: int

    @staticmethod
    def of(matrix: Tensor) -> "Band":
        """Reduce ``[n, n]`` on the CPU, which is overwritten; its upper triangle is read.

        Notes
        -----
        Blocked Householder reflections (Bischof, Lang and Sun, "A framework for symmetric band reduction",
        ACM TOMS 26, 2000): a panel of columns below the band is taken to its triangle, and the rest of the
        matrix meets all of the panel's reflections at once, those of two panels together.
        """
        size = matrix.shape[0]
        blocks = -(-size // WIDTH)
        diagonal = torch.zeros(blocks, WIDTH, WIDTH, dtype=torch.float64)
        below = torch.zeros(blocks - 1, WIDTH, WIDTH, dtype=torch.float64)
        reflections: list[Reflections] = []
        waiting: _Update | None = None
        for index, start in enumerate(range(0, size, WIDTH)):
            end = min(start + WIDTH, size)
            rows = matrix[start:end, start:]
            if waiting is not None:
                rows = waiting.applied(rows)
                waiting = waiting.after(end - start)
            block = rows[:, : end - start].triu()
            diagonal[index, : end - start, : end - start] = block + block.triu(1).mT
            if end == size:
                break
            panel = rows[:, end - start :].contiguous()
            vectors, triangle = lapack.reflect(panel)
            below[index, : vectors.shape[0]] = panel[:, : vectors.shape[0]].mT.triu()
            rest, found = matrix[end:, end:], Reflections(end, vectors, triangle)
            update = _both_sides(rest, found, waiting)
            if waiting is None:
                waiting = update
                reflections.append(found)
            else:
                both = waiting.joined(update)
                lapack.subtract_products(rest, both.vectors, both.partners)
                waiting = None
                reflections.append(reflections.pop().joined(found))
        return Band(diagonal, below, _in_pairs(reflections), size)

    def rotate(self, columns: Tensor, back: bool) -> None:
        """``Q X``, or ``Qᵀ X`` where not ``back``, in place, on ``X``, ``[n, c]`` or more rows."""
        for start, vectors, triangle in reversed(self.reflections) if back else self.reflections:
            part = columns[start : self.size]
            met = (triangle if back else triangle.mT) @ (vectors @ part)
            part.addmm_(vectors.mT, met, alpha=-1)

    def times(self, columns: Tensor) -> Tensor:
        """``B X``, for ``X`` of :meth:`blocked` form and float64."""
        product = self.diagonal @ columns
        product[1:] += self.below @ columns[:-1]
        product[:-1] += self.below.mT @ columns[1:]
        return product

    def blocked(self, columns: Tensor) -> Tensor:
        """``X``, ``[n, c]``, filled up to blocks ``[m, b, c]``, in memory of its own."""
        blocks = columns.new_zeros(self.diagonal.shape[0] * WIDTH, columns.shape[1])
        blocks[: self.size] = columns
        return blocks.view(-1, WIDTH, columns.shape[1])

    def plain(self, blocks: Tensor) -> Tensor:
        """``[n, c]`` of what :meth:`blocked` made: the same memory."""
        return blocks.view(-1, blocks.shape[2])[: self.size]

    def root_mean_square(self) -> float:
        """Of all eigenvalues."""
        squares = self.diagonal.square().sum() + 2 * self.below.square().sum()
        return float((squares / self.size).sqrt())

    def largest(self) -> float:
        """The largest eigenvalue, to a thousandth; at most that much below it."""
        if self.size <= WIDTH:
            return float(torch.linalg.eigvalsh(self.diagonal[0])[-1])
        start = np.ones(self.size)  # the same every time, as the result is then

        def times(vector: object) -> object:
            column = torch.as_tensor(vector, dtype=torch.float64).reshape(-1, 1)
            return self.plain(self.times(self.blocked(column))).numpy()

        operator = LinearOperator((self.size, self.size), matvec=times, dtype="float64")
        values = eigsh(operator, k=1, ncv=6, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)
        return float(values[0])


def _in_pairs(reflections: list[Reflections]) -> list[Reflections]:
    """The same product of half as many: of more at once, products with columns are faster."""
    first, second = reflections[::2], reflections[1::2]
    return [*(one.joined(other) for one, other in zip(first, second, strict=False)), *first[len(second) :]]


def _both_sides(rest: Tensor, found: Reflections, waiting: _Update | None) -> _Update:
    """``Hᵀ A H`` for reflections ``H``, where ``A`` is the rest with an update that waits."""
    seen = _symmetric_times(rest, found.vectors)
    if waiting is not None:
        seen = waiting.taken_from(seen, found.vectors)
    seen = found.triangle.mT @ seen
    twice = found.triangle.mT @ (found.vectors @ seen.mT)
    return _Update(found.vectors, seen.addmm_(twice.mT, found.vectors, alpha=-0.5))


def _symmetric_times(matrix: Tensor, columns: Tensor) -> Tensor:
    """``A X`` as ``[c, n]`` for a symmetric ``A``, whose upper triangle is read; ``X`` as ``[c, n]`` too."""
    turned = columns.mT.contiguous()
    product = torch.zeros_like(turned)
    for start in range(0, matrix.shape[0], _STRIP):
        own, later = slice(start, start + _STRIP), slice(start + _STRIP, None)
        lapack.add_symmetric_times(product[own], matrix[own, own], turned[own])
        product[own].addmm_(matrix[own, later], turned[later])
        product[later].addmm_(matrix[own, later].mT, turned[own])
    return product.mT
