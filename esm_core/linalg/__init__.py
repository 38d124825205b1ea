"""The matrix functions everything rests on, on the device of their arguments; float64 but for parts kept."""

from esm_core.linalg.gram import gram, mirrored
from esm_core.linalg.polar import nearly_polar, polar, times_polar
from esm_core.linalg.polar_times import polar_times, working_precision
from esm_core.linalg.rank import numerical_rank
from esm_core.linalg.symmetric import Eigen

__all__ = [
    "Eigen",
    "gram",
    "mirrored",
    "nearly_polar",
    "numerical_rank",
    "polar",
    "polar_times",
    "times_polar",
    "working_precision",
]
