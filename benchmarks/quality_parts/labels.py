"""What columns are called on the page, and in which table they are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """A table of the page: its columns and what they are called."""

    title: str
    rows: tuple[tuple[str, str], ...]


METHODS = Group(
    "Methods",
    (
        ("base", "base"),
        ("average", "average"),
        ("task_arithmetic", "Task Arithmetic, 0.3"),
        ("task_arithmetic_tuned", "Task Arithmetic, tuned"),
        ("tsv_m", "TSV-M, 1"),
        ("tsv_m_tuned", "TSV-M, tuned"),
        ("iso_c", "Iso-C, 1"),
        ("iso_c_tuned", "Iso-C, tuned"),
        ("iso_cts", "Iso-CTS, 1"),
        ("iso_cts_tuned", "Iso-CTS, tuned"),
        ("esm", "ESM, α label-free (default)"),
        ("esm_validation", "ESM, α by validation"),
        ("esm_released", "ESM, α = 2 (released code)"),
        ("esm_pp_published_rank8_route", "ESM++ as published, rank 8"),
        ("esm_pp_route", "ESM++ (default)"),
        ("esm_pp_oracle", "ESM++ (default), oracle"),
    ),
)

ABLATIONS = Group(
    "Parts of ESM",
    (
        ("esm", "ESM"),
        ("esm_no_eigen_weights", "without eigenvalue weights"),
        ("esm_no_inter_task", "without inter-task scaling"),
        ("esm_no_inter_dimension", "without inter-dimension scaling"),
        ("esm_no_inter_layer", "without inter-layer scaling"),
        ("esm_no_scaling", "without any of the four"),
        ("esm_svd", "SVD basis instead of ESD"),
    ),
)

PROXIES = Group(
    "Proxy images",
    (
        ("esm_proxies_4", "4 of the task's own"),
        ("esm_proxies_8", "8"),
        ("esm", "32 (default)"),
        ("esm_proxies_128", "128"),
        ("esm_proxies_other_task", "32 of another task"),
        ("esm_proxies_faces", "32 of no task (faces and backgrounds, LFW)"),
    ),
)

EXPERTS = Group(
    "Experts and routers",
    (
        ("esm_pp_published_rank8", "published: two layers, cosine, rank 8"),
        ("esm_pp_published_rank16", "the same, rank 16"),
        ("esm_pp_published_rank32", "the same, rank 32"),
        ("esm_pp_two_layers", "two layers, our router, rank 16"),
        ("esm_pp_four_layers_cosine", "four layers, cosine, rank 16"),
        ("esm_pp_four_layers", "four layers, our router, rank 16"),
        ("esm_pp_rank4", "default (four layers, extras, our router), rank 4"),
        ("esm_pp_rank8", "default, rank 8"),
        ("esm_pp", "default, rank 16"),
        ("esm_pp_rank32", "default, rank 32"),
        ("esm_pp_svd_rank8", "default, rank 8, experts by SVD"),
        ("esm_pp_svd", "default, rank 16, experts by SVD"),
    ),
)

RANKS = {
    "default": {4: "esm_pp_rank4", 8: "esm_pp_rank8", 16: "esm_pp", 32: "esm_pp_rank32"},
    "published": {
        8: "esm_pp_published_rank8",
        16: "esm_pp_published_rank16",
        32: "esm_pp_published_rank32",
    },
}
"""Columns of :data:`EXPERTS` by rank, for the plot."""

ESD, SVD = "esd own-32", "svd"
BASES = (
    (SVD, "SVD"),
    (ESD, "ESD"),
    ("esd own-4", "ESD, 4 proxies"),
    ("esd other_task-32", "ESD, another task's"),
    ("esd faces-32", "ESD, no task's"),
)

SEARCHES = ("validation", "released")
"""Endings of columns that hold a variant of ESM with another choice of α."""


def names() -> dict[str, str]:
    """Column → what it is called, for every column of a table of methods, parts or proxies."""
    routed = [
        (f"{column}_{mode}", f"ESM++, {label}, {mode}")
        for column, label in EXPERTS.rows
        for mode in ("route", "oracle")
    ]
    short = [("experts", "fine-tunes"), ("esm_pp_route", "ESM++"), *METHODS.rows]
    rest = (*ABLATIONS.rows, *PROXIES.rows, *routed)
    found: dict[str, str] = {}
    for column, label in (*short, *rest):
        found.setdefault(column, label)
    return found


def others(columns: list[str]) -> list[str]:
    """Columns that are in none of the tables: those of variants that were added."""
    known = set(names())
    known |= {f"{column}_{search}" for column in known for search in SEARCHES}
    return [column for column in columns if column not in known]
