"""Every variant of the benchmark, in the order of its tables. One entry adds one."""

from benchmarks.quality_parts.static import Base, Baseline, Esm, FineTunes
from benchmarks.quality_parts.variant import Variant
from esm_core.settings import MergeSettings

SUM_GRID = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Coefficients tried for Task Arithmetic: 0.05 to 1."""

SPECTRAL_GRID = tuple(round(0.2 * step, 1) for step in range(1, 16))
"""Coefficients tried for TSV-M, Iso-C and Iso-CTS: 0.2 to 3."""

STATIC: tuple[Variant, ...] = (
    FineTunes(),
    Base(),
    Baseline("average"),
    Baseline("task_arithmetic", SUM_GRID),
    Baseline("tsv_m", SPECTRAL_GRID),
    Baseline("iso_c", SPECTRAL_GRID),
    Baseline("iso_cts", SPECTRAL_GRID),
    Esm("esm", searches=("label_free", "validation", "released")),
)

ABLATIONS: tuple[Variant, ...] = (
    Esm("esm_no_eigen_weights", MergeSettings(eigen_exponent=0)),
    Esm("esm_no_inter_task", MergeSettings(inter_task=False)),
    Esm("esm_no_inter_dimension", MergeSettings(inter_dimension=False)),
    Esm("esm_no_inter_layer", MergeSettings(inter_layer=False)),
    Esm(
        "esm_no_scaling",
        MergeSettings(eigen_exponent=0, inter_task=False, inter_dimension=False, inter_layer=False),
    ),
    Esm("esm_svd", basis="svd"),
)

VARIANTS: tuple[Variant, ...] = (*STATIC, *ABLATIONS)
