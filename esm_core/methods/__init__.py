"""Merge methods, one file each. A baseline merges one weight from the tasks' updates of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from esm_core.methods import average, iso_c, iso_cts, task_arithmetic, tsv_m


@dataclass(frozen=True)
class Baseline:
    """A method users compare with.

    Attributes
    ----------
    merge_weight : callable
        The tasks' updates of one weight, a sequence that may be lazy → the merged update in float64.
    coefficient : float
        Its merging coefficient where the recipe names none.
    """

    merge_weight: Callable[[Sequence[Tensor]], Tensor]
    coefficient: float


BASELINES: Mapping[str, Baseline] = {
    "average": Baseline(average.merge_weight, average.COEFFICIENT),
    "task_arithmetic": Baseline(task_arithmetic.merge_weight, task_arithmetic.COEFFICIENT),
    "tsv_m": Baseline(tsv_m.merge_weight, tsv_m.COEFFICIENT),
    "iso_c": Baseline(iso_c.merge_weight, iso_c.COEFFICIENT),
    "iso_cts": Baseline(iso_cts.merge_weight, iso_cts.COEFFICIENT),
}
