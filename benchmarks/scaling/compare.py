"""One layer of each type: esm_core beside the textbook, in turns, and both beside a float64 reference."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks import textbook
from benchmarks.scaling import ours
from benchmarks.scaling.floor import decompose_flops, fuse_flops
from benchmarks.scaling.problem import LayerProblem
from benchmarks.scaling.usage import NOTHING, Usage, measured
from esm_core.bases import Part
from esm_core.storage import Location

T = TypeVar("T")

Row = dict[str, Any]


@dataclass
class Clock:
    """Sums what is used, by name."""

    totals: dict[str, Usage] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        result, usage = measured(work)
        self.totals[name] = self.totals.get(name, NOTHING) + usage
        return result

    def cpu(self, *names: str) -> float:
        return sum(self.totals[name].cpu for name in names)

    def wall(self, *names: str) -> float:
        return sum(self.totals[name].wall for name in names)


def compare_layer(problem: LayerProblem, rates: dict[str, float], shifts: Location, reference: bool) -> Row:
    """Measure one layer.

    Parameters
    ----------
    problem : LayerProblem
        With the number of tasks of the merge.
    rates : dict
        Of matrix products, as :func:`~benchmarks.scaling.machine.product_rates` says.
    shifts : Location
        A folder that every task's factor is written to, as ``{kind}/{task}``.
    reference : bool
        Whether the textbook is run in float64 too.

    Returns
    -------
    dict
        Seconds (``cpu`` and ``wall`` by step), ratios, floors, differences and bytes, JSON values.
    """
    more = problem.with_tasks(problem.tasks + 1)
    inputs = list(more.inputs())
    clock = Clock()
    updates, raw = more.updates[: problem.tasks], inputs[: problem.tasks]
    pairs = zip(updates, raw, strict=True)
    factors = clock("compress", lambda: [ours.compress(problem, u, x) for u, x in pairs])
    # Ours before and after the textbook: a slow spell of the machine falls on both.
    _run(problem, updates, factors, clock, "first ")
    theirs = clock("textbook", lambda: _textbook(problem, updates, raw, torch.float32))
    parts, merged = _run(problem, updates, factors, clock, "second ")
    difference = {"textbook": relative(merged, theirs)}
    if reference:
        exact = _textbook(problem, updates, raw, torch.float64)
        difference |= {"ours_to_reference": relative(merged, exact)}
        difference |= {"textbook_to_reference": relative(theirs, exact)}
    incremental = _add_one(problem, more, inputs, parts, clock)
    stored = [
        ours.store_shift(shifts / problem.kind / str(task), problem, factor)
        for task, factor in enumerate(factors)
    ]
    cpu, wall = _steps(clock.cpu), _steps(clock.wall)
    return {
        "kind": problem.kind,
        "essential": problem.essential,
        "d_out": problem.d_out,
        "d_in": problem.d_in,
        "rows": problem.rows,
        "cpu": cpu,
        "wall": wall,
        "speedup": cpu["textbook"] / cpu["ours"],
        "floor": _floor(problem, cpu, rates["float64"]),
        "difference": difference,
        "incremental": incremental,
        "stored_bytes": sum(stored),
        "raw_shift_bytes": 4 * problem.tasks * problem.rows * problem.d_out,
    }


def relative(one: Tensor, other: Tensor) -> float:
    """``‖A - B‖_F / ‖B‖_F``, in float64."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def _run(
    problem: LayerProblem,
    updates: list[Tensor],
    factors: list[ours.Factor],
    clock: Clock,
    prefix: str,
) -> tuple[list[Part], Tensor]:
    pairs = zip(updates, factors, strict=True)
    parts = clock(prefix + "decompose", lambda: [ours.decompose(problem, u, f) for u, f in pairs])
    return parts, clock(prefix + "fuse", lambda: ours.fuse(parts))


def _textbook(problem: LayerProblem, updates: list[Tensor], raw: list[Tensor], dtype: torch.dtype) -> Tensor:
    if problem.essential:
        return textbook.merge_layer(updates, raw, dtype)
    return textbook.merge_by_singular_vectors(updates, dtype)


def _add_one(
    problem: LayerProblem,
    more: LayerProblem,
    inputs: list[Tensor],
    parts: list[Part],
    clock: Clock,
) -> dict[str, float]:
    """CPU seconds of a merge with one task more: from nothing, and on top of what a merge has kept.

    Both decompose at the rank of the merge before and cut, as the store's kept decompositions are.
    """

    def one(task: int) -> Part:
        update = more.updates[task]
        factor = ours.compress(more, update, inputs[task]) if more.essential else None
        return ours.decompose(problem, update, factor)

    def fuse(parts: list[Part]) -> Tensor:
        return ours.fuse([ours.shortened(more, part) for part in parts])

    added = clock("add", lambda: fuse([*parts, one(more.tasks - 1)]))
    cold = clock("cold", lambda: fuse([one(task) for task in range(more.tasks)]))
    difference = relative(added, cold)
    return {"add": clock.cpu("add"), "cold": clock.cpu("cold"), "difference": difference}


def _steps(seconds: Callable[..., float]) -> dict[str, float]:
    decompose = seconds("first decompose", "second decompose") / 2
    fuse = seconds("first fuse", "second fuse") / 2
    return {
        "compress": seconds("compress"),
        "decompose": decompose,
        "fuse": fuse,
        "ours": decompose + fuse,
        "textbook": seconds("textbook"),
    }


def _floor(problem: LayerProblem, cpu: dict[str, float], rate: float) -> dict[str, float]:
    decompose, fuse = decompose_flops(problem) / rate, fuse_flops(problem) / rate
    return {
        "decompose": decompose,
        "fuse": fuse,
        "decompose_share": decompose / cpu["decompose"],
        "fuse_share": fuse / cpu["fuse"],
        "share": (decompose + fuse) / cpu["ours"],
    }
