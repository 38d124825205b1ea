"""Essential Subspace Merging of one layer (arXiv 2602.20208 and 2606.19164)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from esm_core.esd import Decomposition, decompose_update
from esm_core.factor import InputFactor, ShiftFactor
from esm_core.layers import layer_kind
from esm_core.linalg import gram, nearly_polar, polar_times, times_polar, working_precision
from esm_core.settings import MergeSettings


@dataclass(frozen=True)
class EssentialMerge:
    """The merged update of one layer and what a report shows of it.

    Attributes
    ----------
    update : Tensor
        ``M``, ``[d_out, d_in]`` float64, before inter-layer scaling and α.
    eigenvalues : list of Tensor
        Per task, all eigenvalues of its activation shift, descending.
    ranks : list of int
        Per task, the directions kept.
    overlaps : Tensor
        ``[T, T]`` float64: ``‖E_iᵀ E_j‖_F² / min(r_i, r_j)`` of the kept bases; 1 means the same subspace.
    norms : Tensor
        ``[T]`` float64: ``‖Eᵀ dW‖_F`` per task, over all its essential directions: ``‖dW‖_F`` where the
        proxies reach every direction.
    """

    update: Tensor
    eigenvalues: list[Tensor]
    ranks: list[int]
    overlaps: Tensor
    norms: Tensor


def merge_layer(
    tasks: Iterable[tuple[Tensor, InputFactor | ShiftFactor]], count: int, settings: MergeSettings
) -> EssentialMerge:
    """Decompose every task's update of one layer in its essential subspace and fuse them.

    Parameters
    ----------
    tasks : iterable of (update, inputs)
        One per task: ``[d_out, d_in]`` and its factor. Taken one at a time and let go.
    count : int
        ``T``, the number of tasks.
    settings : MergeSettings

    Returns
    -------
    EssentialMerge
    """
    parts = []
    for update, inputs in tasks:
        rank = kept_rank(update.shape[0], count, settings)
        parts.append(decompose_update(update, inputs, rank))
    return fuse(parts, settings)


def kept_rank(d_out: int, count: int, settings: MergeSettings) -> int:
    """Directions kept of each of ``count`` tasks in a layer of ``d_out`` outputs."""
    return settings.rank or max(1, d_out // count)


def fuse(parts: Sequence[Decomposition], settings: MergeSettings) -> EssentialMerge:
    """Scale, concatenate and orthogonalise the tasks' decompositions of one layer.

    Parameters
    ----------
    parts : sequence of Decomposition
        One per task, in order, truncated to the rank that is to be kept; matrices in float64 or float32.
    settings : MergeSettings
    """
    bases = [part.basis for part in parts]
    ranks = [basis.shape[1] for basis in bases]
    weights = [
        _eigen_weights(part.eigenvalues[:rank], settings.eigen_exponent)
        for part, rank in zip(parts, ranks, strict=True)
    ]
    norms = torch.stack([part.norm for part in parts])
    scales = torch.ones_like(norms)
    if settings.inter_task:
        scales = polarised(norms, settings.scaling_exponent)
    basis = torch.cat(bases, dim=1)
    basis *= torch.cat(weights).to(basis.dtype)
    coordinate = torch.cat([part.coordinates for part in parts], dim=0).to(norms.dtype)
    coordinate *= torch.cat([w * s for w, s in zip(weights, scales, strict=True)])[:, None]
    if settings.inter_dimension:
        coordinate *= polarised(coordinate.square().sum(dim=0).sqrt(), settings.scaling_exponent)
    product = gram(basis.to(torch.float32))
    overlaps = _overlaps(product, weights)
    update = _orthogonal_product(basis, coordinate, product)
    return EssentialMerge(update, [part.eigenvalues for part in parts], ranks, overlaps, norms)


def layer_scales(norms: Mapping[str, float], settings: MergeSettings) -> dict[str, float]:
    """Inter-layer scaling ``β_l = (‖M_l‖_F / mean_k ‖M_k‖_F)^p`` over the layers of one kind.

    Parameters
    ----------
    norms : mapping of weight name to ``‖M_l‖_F``
    settings : MergeSettings

    Returns
    -------
    dict
        β per weight; 1 for weights of no layer kind, or where the scaling is off.
    """
    by_kind: dict[str, list[str]] = {}
    for weight in sorted(norms):
        kind = layer_kind(weight)
        if kind is not None and settings.inter_layer:
            by_kind.setdefault(kind, []).append(weight)
    scales = dict.fromkeys(norms, 1.0)
    for weights in by_kind.values():
        values = polarised(
            torch.tensor([norms[w] for w in weights], dtype=torch.float64), settings.scaling_exponent
        )
        scales.update(zip(weights, values.tolist(), strict=True))
    return scales


def polarised(norms: Tensor, exponent: float) -> Tensor:
    """Polarised scaling ``(norm_i / mean norm)^p``, ``[k]``; ones where every norm is zero."""
    mean = norms.mean()
    return torch.ones_like(norms) if mean == 0 else (norms / mean) ** exponent


def _eigen_weights(eigenvalues: Tensor, exponent: float) -> Tensor:
    if eigenvalues.numel() == 0:
        return eigenvalues
    weights = (eigenvalues / eigenvalues.mean()) ** exponent
    return weights / weights.mean()


def _orthogonal_product(basis: Tensor, coordinate: Tensor, product: Tensor) -> Tensor:
    """``polar(E) mean σ(E) · polar(C) mean σ(C)``, without a polar factor that the product can do without."""
    if basis.shape[1] == 0:
        return basis.to(coordinate.dtype) @ coordinate
    if coordinate.shape[0] < coordinate.shape[1]:
        factor, roots = nearly_polar(basis.to(coordinate.dtype), basis.dtype)
        merged, values = times_polar(factor, coordinate, basis.dtype)
        return merged.mul_(roots.mean() * values.mean())
    precision = working_precision(basis, coordinate.shape[1])
    flat, values = nearly_polar(coordinate, basis.dtype, precision)
    merged, mean = polar_times(basis, flat, product)
    return merged.mul_(mean * values.mean())


def _overlaps(product: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """From the Gram matrix of all bases side by side, whose columns carry the eigenvalue weights."""
    starts = [0, *accumulate(weight.numel() for weight in weights)]
    shares = [weight.square().reciprocal() for weight in weights]
    overlaps = torch.ones(len(weights), len(weights), dtype=torch.float64, device=product.device)
    for j in range(len(weights)):
        for i in range(j):
            block = product[starts[i] : starts[i + 1], starts[j] : starts[j + 1]].to(torch.float64)
            shared = shares[i] @ (block.square() @ shares[j])
            overlaps[i, j] = overlaps[j, i] = shared / max(min(block.shape), 1)
    return overlaps
