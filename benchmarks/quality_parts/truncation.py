"""How much of a fine-tune's shift a truncated basis loses on inputs it has not seen: ESD against SVD."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality_parts.problem import Problem
from benchmarks.quality_parts.proxies import Proxies
from benchmarks.quality_parts.static import isotropic
from benchmarks.quality_parts.variant import Figures
from esm_core.esd import essential_basis
from esm_core.experts.names import linear_map
from esm_core.factor import InputFactor
from esm_core.layers import layer_kind

SHARES = (0.05, 0.1, 0.25)
"""Ranks, as shares of the weight's shorter side."""

Errors = dict[str, dict[str, dict[str, float]]]
"""Layer kind → basis → rank share → error."""


@dataclass(frozen=True)
class Truncation:
    """Functional truncation error ``E‖dO - dO ÊÊᵀ‖² / E‖dO‖²`` on test images, a mean over tasks and layers.

    One column, whose facts are :data:`Errors`. The bases: ``svd``, and ``esd`` by kind of proxies.
    """

    name: str = "truncation"
    proxies: tuple[Proxies, ...] = (Proxies(32), Proxies(4), Proxies(32, "other_task"), Proxies(32, "faces"))

    def measure(self, problem: Problem) -> dict[str, Figures]:
        found: dict[str, dict[str, list[list[float]]]] = {}
        for name in problem.names:
            held_out = problem.held_out(name)
            collected = {f"esd {own.label}": problem.collected(name, own) for own in self.proxies}
            for weight in problem.linear_weights:
                update = linear_map(weight, problem.updates[name][weight])
                inputs = {label: layers[weight].inputs for label, layers in collected.items()}
                inputs["svd"] = isotropic(held_out[weight].inputs)
                kind = layer_kind(weight) or weight.removeprefix("visual.").removesuffix(".weight")
                for label, own in inputs.items():
                    errors = truncation_errors(update, own, held_out[weight].inputs)
                    found.setdefault(kind, {}).setdefault(label, []).append(errors)
        means: Errors = {
            kind: {label: _means(rows) for label, rows in bases.items()} for kind, bases in found.items()
        }
        return {self.name: Figures({}, facts={"errors": means})}


def truncation_errors(update: Tensor, inputs: InputFactor, held_out: InputFactor) -> list[float]:
    """Share of the shift's energy on ``held_out`` that the basis from ``inputs`` loses, by :data:`SHARES`.

    Parameters
    ----------
    update : Tensor
        ``dW``, ``[d_out, d_in]``.
    """
    shift = held_out.factor @ update.mT
    basis = essential_basis(update, inputs).basis
    energies = (shift @ basis).square().sum(dim=0) / shift.square().sum()
    return [1 - float(energies[: rank_of(share, update)].sum()) for share in SHARES]


def rank_of(share: float, update: Tensor) -> int:
    """The rank that is a share of the shorter side of ``update``, at least 1."""
    return max(1, round(share * min(update.shape)))


def _means(rows: list[list[float]]) -> dict[str, float]:
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    return {f"{share:g}": mean for share, mean in zip(SHARES, means, strict=True)}
