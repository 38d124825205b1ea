"""Essential Subspace Merging of one layer (arXiv 2602.20208 and 2606.19164)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.esd import coordinates, essential_basis
from esm_core.factor import InputFactor
from esm_core.layers import layer_kind
from esm_core.linalg import polar
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
    """

    update: Tensor
    eigenvalues: list[Tensor]
    ranks: list[int]
    overlaps: Tensor


def merge_layer(
    tasks: Iterable[tuple[Tensor, InputFactor]], count: int, settings: MergeSettings
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
    bases, coords, eigenvalues, norms = [], [], [], []
    for update, inputs in tasks:
        basis, spectrum = essential_basis(update, inputs)
        full = coordinates(basis, update)
        rank = min(settings.rank or max(1, update.shape[0] // count), spectrum.numel())
        bases.append(basis[:, :rank])
        coords.append(full[:rank])
        eigenvalues.append(spectrum)
        norms.append(full.norm())
    overlaps = _overlaps(bases)
    ranks = [basis.shape[1] for basis in bases]
    weights = [
        _eigen_weights(s[:r], settings.eigen_exponent) for s, r in zip(eigenvalues, ranks, strict=True)
    ]
    scales = torch.ones(count, dtype=torch.float64, device=bases[0].device)
    if settings.inter_task:
        scales = polarised(torch.stack(norms), settings.scaling_exponent)
    basis = torch.cat([b * w for b, w in zip(bases, weights, strict=True)], dim=1)
    coordinate = torch.cat(
        [c * w[:, None] * s for c, w, s in zip(coords, weights, scales, strict=True)], dim=0
    )
    if settings.inter_dimension:
        coordinate = coordinate * polarised(coordinate.norm(dim=0), settings.scaling_exponent)
    return EssentialMerge(_orthogonal_product(basis, coordinate), eigenvalues, ranks, overlaps)


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


def _orthogonal_product(basis: Tensor, coordinate: Tensor) -> Tensor:
    if basis.shape[1] == 0:
        return basis @ coordinate
    basis_factor, basis_values = polar(basis)
    coordinate_factor, coordinate_values = polar(coordinate)
    return (basis_factor * (basis_values.mean() * coordinate_values.mean())) @ coordinate_factor


def _overlaps(bases: list[Tensor]) -> Tensor:
    overlaps = torch.ones(len(bases), len(bases), dtype=torch.float64)
    for i, first in enumerate(bases):
        for j, second in enumerate(bases[:i]):
            size = min(first.shape[1], second.shape[1])
            shared = float((first.mT @ second).square().sum()) / size if size else 0.0
            overlaps[i, j] = overlaps[j, i] = shared
    return overlaps
