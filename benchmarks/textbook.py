"""The published algorithm as it is written down: full singular value decompositions, everything in memory.

Our own code after the equations of arXiv 2602.20208; what ``benchmarks/scale.py`` measures esm_core by.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EIGEN_EXPONENT = 0.15
SCALING_EXPONENT = 2.0


def merge_layer(
    updates: Sequence[Tensor], inputs: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> Tensor:
    """``M`` of one layer, before inter-layer scaling and α.

    Parameters
    ----------
    updates, inputs : sequence of Tensor
        Of every task: ``dW`` ``[d_out, d_in]`` and the layer's raw inputs ``[n, d_in]``, ``n > 1``.
    dtype : torch.dtype
        What all is computed in. Float64 gives a reference.
    """
    updates = [update.to(dtype) for update in updates]
    rank = updates[0].shape[0] // len(updates)
    bases, coordinates, norms = [], [], []
    for update, rows in zip(updates, inputs, strict=True):
        shift = rows.to(dtype) @ update.mT
        _, values, right = torch.linalg.svd(shift, full_matrices=False)
        eigenvalues = values.square() / (shift.shape[0] - 1)
        coordinate = right @ update
        weights = (eigenvalues[:rank] / eigenvalues[:rank].mean()) ** EIGEN_EXPONENT
        weights = weights / weights.mean()
        norms.append(coordinate.norm())
        bases.append(right[:rank].mT * weights)
        coordinates.append(coordinate[:rank] * weights[:, None])
    scales = _polarised(torch.stack(norms))
    coordinate = torch.cat([c * scale for c, scale in zip(coordinates, scales, strict=True)])
    coordinate = coordinate * _polarised(coordinate.norm(dim=0))
    return _orthogonal(torch.cat(bases, dim=1)) @ _orthogonal(coordinate)


def merge_by_singular_vectors(updates: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """The merged update of an attention's output projection: whitened task singular vectors (TSV-M)."""
    updates = [update.to(dtype) for update in updates]
    rank = min(updates[0].shape) // len(updates)
    parts = [torch.linalg.svd(update, full_matrices=False) for update in updates]
    left = torch.cat([part.U[:, :rank] for part in parts], dim=1)
    values = torch.cat([part.S[:rank] for part in parts])
    right = torch.cat([part.Vh[:rank] for part in parts])
    return (_polar(left)[0] * values) @ _polar(right)[0]


def _polarised(norms: Tensor) -> Tensor:
    return (norms / norms.mean()) ** SCALING_EXPONENT


def _polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right, values


def _orthogonal(matrix: Tensor) -> Tensor:
    factor, values = _polar(matrix)
    return factor * values.mean()
