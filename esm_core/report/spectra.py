"""Singular values of the updates themselves, of a few layers: what essential directions are compared with.

A decomposition by essential subspaces never makes them, so they cost an eigenproblem of their own. It is
done for the first, the middle and the last layer of every kind only, and kept for each fine-tune.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from esm_core.layers import layer_kind
from esm_core.linalg import gram
from esm_core.plan import Plan
from esm_core.report.curves import curve_ranks, energy_shares
from esm_core.stages import FORMAT, canonical_json, digest_of, read_versioned
from esm_core.storage import Location
from esm_core.unchanged import unchanged
from esm_core.weights import open_tower, read_weight


def block_number(weight: str) -> int | None:
    """The block of the transformer that a weight belongs to; None for one outside the blocks."""
    match = re.search(r"resblocks\.(\d+)\.", weight)
    return int(match[1]) if match else None


def sampled(weights: Iterable[str]) -> list[str]:
    """The first, the middle and the last weight of every layer kind, sorted by name."""
    by_kind: dict[str, list[str]] = {}
    for weight in sorted(weights, key=lambda name: (block_number(name) or 0, name)):
        kind = layer_kind(weight)
        if kind is not None:
            by_kind.setdefault(kind, []).append(weight)
    return sorted({own[at] for own in by_kind.values() for at in (0, len(own) // 2, -1)})


def spectra_file(plan: Plan, name: str) -> Location:
    """Where a task's curves are kept; they depend on the fine-tune and the base alone."""
    identity = {
        **plan.expert_identity(name),
        "base": plan.base.identity,
        "weights": sampled(plan.decomposed),
    }
    return plan.store / "spectra" / f"{digest_of('spectra', identity)}.json"


def measure_spectra(plan: Plan, name: str) -> Location:
    """Keep the energy curves of a task's updates in the sampled layers; at once where they are there.

    Reads these weights of the fine-tune and of the base.

    Raises
    ------
    InputError
        A checkpoint changed since it was inspected.
    """
    file = spectra_file(plan, name)
    if file.is_file():
        return file
    curves: dict[str, Any] = {}
    with unchanged(plan, [name]):
        base = open_tower(Location.parse(plan.base.weights))
        tuned = open_tower(Location.parse(plan.task(name).facts.checkpoint.weights))
        for weight in sampled(plan.decomposed):
            update = read_weight(tuned, base, weight).float() - base.read(weight).float()
            curves[weight] = energy_shares(_energies(update), curve_ranks(min(update.shape)))
    file.write_bytes(canonical_json({"format": FORMAT, "facts": curves}))
    return file


def read_spectra(plan: Plan, name: str) -> dict[str, list[float] | None]:
    """Sampled weight → curve of a task's update, measured now where it was not yet."""
    return read_versioned(measure_spectra(plan, name), "facts")


def _energies(update: Tensor) -> Tensor:
    """Squares of the singular values of ``[m, n]``, descending; float32 tells shares of a sum well."""
    product = gram(update if update.shape[0] >= update.shape[1] else update.mT)
    values: Tensor = torch.linalg.eigvalsh(product, UPLO="U")
    return values.flip(0).clamp(min=0).double()
