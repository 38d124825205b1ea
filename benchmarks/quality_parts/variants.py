"""Every variant of the benchmark, in the order of its tables. One entry adds one."""

from benchmarks.quality_parts.candidates import CANDIDATES, FINE_TUNES
from benchmarks.quality_parts.proxies import Proxies
from benchmarks.quality_parts.routed import Routed
from benchmarks.quality_parts.static import Base, Baseline, Esm, FineTunes, Merged, esm_line, released
from benchmarks.quality_parts.truncation import Truncation
from benchmarks.quality_parts.variant import Variant
from esm_core.layers import LAYER_KINDS, LayerKind
from esm_core.settings import ExpertSettings, MergeSettings

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

TWO: tuple[LayerKind, ...] = ("attn.in_proj", "mlp.c_fc")


def _experts(rank: int, layers: tuple[LayerKind, ...] = LAYER_KINDS) -> ExpertSettings:
    return ExpertSettings(rank=rank, layers=layers, extras=False)


def _cosine(rank: int, layers: tuple[LayerKind, ...]) -> ExpertSettings:
    return ExpertSettings(rank=rank, layers=layers, extras=False, router="cosine")


ROUTED: tuple[Variant, ...] = (
    Routed("esm_pp"),
    Routed("esm_pp_rank4", ExpertSettings(rank=4)),
    Routed("esm_pp_rank8", ExpertSettings(rank=8)),
    Routed("esm_pp_rank32", ExpertSettings(rank=32)),
    Routed("esm_pp_svd", basis="svd"),
    Routed("esm_pp_svd_rank8", ExpertSettings(rank=8), basis="svd"),
    Routed("esm_pp_published_rank8", _cosine(8, TWO)),
    Routed("esm_pp_published_rank16", _cosine(16, TWO)),
    Routed("esm_pp_published_rank32", _cosine(32, TWO)),
    Routed("esm_pp_two_layers", _experts(16, TWO)),
    Routed("esm_pp_four_layers", _experts(16)),
    Routed("esm_pp_four_layers_cosine", _cosine(16, LAYER_KINDS)),
)

PROXIES: tuple[Variant, ...] = (
    Esm("esm_proxies_4", proxies=Proxies(4)),
    Esm("esm_proxies_8", proxies=Proxies(8)),
    Esm("esm_proxies_128", proxies=Proxies(128)),
    Esm("esm_proxies_other_task", proxies=Proxies(32, "other_task")),
    Esm("esm_proxies_faces", proxies=Proxies(32, "faces")),
)

RELEASED_ALPHA = Merged("candidate_released_alpha", esm_line, released)
"""What a search without labels has to beat."""

AUTOMATIC: tuple[Variant, ...] = (FINE_TUNES, *CANDIDATES, RELEASED_ALPHA)
"""Measured on held-out seeds too."""

VARIANTS: tuple[Variant, ...] = (*STATIC, *ABLATIONS, *ROUTED, *PROXIES, Truncation(), *AUTOMATIC)

QUICK = (
    "experts",
    "base",
    "average",
    "task_arithmetic",
    "tsv_m",
    "iso_c",
    "iso_cts",
    "esm",
    "esm_svd",
    "esm_pp",
    "esm_pp_published_rank8",
    "esm_proxies_4",
    "truncation",
)
"""Names of the variants of a quick run."""
