"""What esm_core does with one layer, step by step: compress (when collecting), decompose, fuse."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.scaling.problem import LayerProblem
from esm_core.bases import Part, rounded
from esm_core.collect import CollectedLayer
from esm_core.esd import Decomposition, decompose_update
from esm_core.factor import FactorStream, InputFactor, ShiftFactor
from esm_core.methods import esm, tsv_m
from esm_core.methods.tsv_m import SingularPart
from esm_core.settings import MergeSettings
from esm_core.shifts import read_factor, write_shifts
from esm_core.storage import Location

SETTINGS = MergeSettings()

Factor = InputFactor | ShiftFactor


def compress(problem: LayerProblem, update: Tensor, rows: Tensor) -> Factor:
    """What collection leaves of one task's raw inputs ``[n, d_in]``; the shift's where that is smaller."""
    if problem.keeps_shift:
        stream = FactorStream(problem.d_out)
        stream.update(rows.to(torch.float64) @ update.to(torch.float64).mT)
        return ShiftFactor(*stream.result()[0])
    stream = FactorStream(problem.d_in)
    stream.update(rows)
    return stream.result()[0]


def decompose(problem: LayerProblem, update: Tensor, factor: Factor | None) -> Part:
    """One task's part of a fusion of ``problem.tasks``; a layer that is not essential needs no factor."""
    if not problem.essential:
        return rounded(tsv_m.decompose(update, tsv_m.kept_rank(update.shape, problem.tasks)))
    assert factor is not None
    rank = esm.kept_rank(problem.d_out, problem.tasks, SETTINGS)
    return rounded(decompose_update(update.to(torch.float64), factor, rank))


def fuse(parts: Sequence[Part]) -> Tensor:
    """``M`` of one layer, float64."""
    essential = [part for part in parts if isinstance(part, Decomposition)]
    if essential:
        return esm.fuse(essential, SETTINGS).update
    return tsv_m.fuse([part for part in parts if isinstance(part, SingularPart)])


def shortened(problem: LayerProblem, part: Part) -> Part:
    """A part that was kept from a merge of fewer tasks, cut to the rank of ``problem.tasks``."""
    if isinstance(part, Decomposition):
        rank = esm.kept_rank(problem.d_out, problem.tasks, SETTINGS)
        return part._replace(basis=part.basis[:, :rank], coordinates=part.coordinates[:rank])
    rank = tsv_m.kept_rank((problem.d_out, problem.d_in), problem.tasks)
    return SingularPart(part.left[:, :rank], part.values[:rank], part.right[:rank])


def store_shift(folder: Location, problem: LayerProblem, factor: Factor) -> int:
    """Write a factor as collection does, with a mean of inputs; returns the bytes that are there then."""
    layer: CollectedLayer | ShiftFactor
    if isinstance(factor, InputFactor):
        layer = CollectedLayer(factor, torch.ones(problem.d_in, dtype=torch.float64))
    else:
        layer = factor
    write_shifts(folder, [(problem.weight, layer)], {})
    return sum((folder / file).size() for file in folder.files())


def stored_shift(folder: Location, problem: LayerProblem) -> Factor:
    """What :func:`store_shift` wrote."""
    return read_factor(folder, problem.weight)
