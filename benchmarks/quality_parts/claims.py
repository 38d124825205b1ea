"""What the papers, or this project's notes, say, and whether it holds in the figures."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Summary = Mapping[str, Any]

ORDERING = ("experts", "esm_pp_route", "esm", "tsv_m", "task_arithmetic", "average", "base")
ORDERING_TUNED = (
    "experts",
    "esm_pp_route",
    "esm_validation",
    "tsv_m_tuned",
    "task_arithmetic_tuned",
    "average",
    "base",
)


@dataclass(frozen=True)
class Claim:
    """``left`` is better than ``right`` by more than ``margin``, a share; negative for "loses little"."""

    text: str
    source: str
    left: str
    right: str
    margin: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes
    ----------
    differences : tuple of float
        ``left - right`` by seed, shares of normalised accuracy.
    """

    claim: Claim
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def seeds(self) -> int:
        """In how many seeds it holds."""
        return sum(difference > self.claim.margin for difference in self.differences)

    @property
    def holds(self) -> bool:
        """In the mean over seeds."""
        return self.mean > self.claim.margin

    @property
    def words(self) -> str:
        if not self.holds:
            return "does not hold"
        return "holds" if self.seeds == len(self.differences) else "holds in the mean only"

    def as_json(self) -> dict[str, Any]:
        return {
            "claim": self.claim.text,
            "source": self.claim.source,
            "columns": [self.claim.left, self.claim.right],
            "margin": self.claim.margin,
            "mean_difference": round(self.mean, 6),
            "holds": self.holds,
            "seeds": f"{self.seeds} of {len(self.differences)}",
        }


PAPER, EXTENDED, NOTES = "arXiv 2602.20208", "arXiv 2606.19164", "esmerge"
ISO = "arXiv 2502.04959"

CLAIMS = (
    Claim("ESM is better than Iso-CTS, both at their default coefficients", PAPER, "esm", "iso_cts"),
    Claim("ESM is better than Iso-CTS, both tuned", PAPER, "esm_validation", "iso_cts_tuned"),
    Claim("ESM without a label is better than TSV-M tuned on labels", NOTES, "esm", "tsv_m_tuned"),
    Claim("ESM without a label is better than Iso-CTS tuned on labels", NOTES, "esm", "iso_cts_tuned"),
    Claim("Iso-CTS is better than TSV-M, both tuned", ISO, "iso_cts_tuned", "tsv_m_tuned"),
    Claim("Iso-CTS is better than Iso-C, both tuned", ISO, "iso_cts_tuned", "iso_c_tuned"),
    Claim("ESD is a better basis than SVD", PAPER, "esm", "esm_svd"),
    Claim("ESD is a better basis than SVD, α by validation", PAPER, "esm_validation", "esm_svd_validation"),
    Claim("Inter-layer scaling helps", PAPER, "esm", "esm_no_inter_layer"),
    Claim("Inter-task scaling helps", PAPER, "esm", "esm_no_inter_task"),
    Claim("Inter-dimension scaling helps", PAPER, "esm", "esm_no_inter_dimension"),
    Claim("Eigenvalue weights help", PAPER, "esm", "esm_no_eigen_weights"),
    Claim("All scalings together help", PAPER, "esm", "esm_no_scaling"),
    Claim("4 proxies beat TSV-M", PAPER, "esm_proxies_4", "tsv_m"),
    *(
        Claim(
            f"{whose} images as proxies cost < 0.1 points{how}",
            source,
            f"esm_proxies_{proxies}{ending}",
            f"esm{ending}",
            -0.001,
        )
        for whose, proxies in (("Another task's", "other_task"), ("No task's", "faces"))
        for how, ending, source in (
            (", α label-free", "", f"{PAPER}, with our α"),
            (", α by validation", "_validation", PAPER),
        )
    ),
    Claim(
        "Published experts (rank 8) beat the static merge",
        EXTENDED,
        "esm_pp_published_rank8_route",
        "esm",
    ),
    Claim(
        "Rank 32 is better than rank 8, as published",
        EXTENDED,
        "esm_pp_published_rank32_route",
        "esm_pp_published_rank8_route",
    ),
    Claim(
        "Experts by ESD are better than by SVD (rank 8, oracle)",
        EXTENDED,
        "esm_pp_rank8_oracle",
        "esm_pp_svd_rank8_oracle",
    ),
    Claim(
        "Experts by ESD are better than by SVD (rank 16, oracle)",
        EXTENDED,
        "esm_pp_oracle",
        "esm_pp_svd_oracle",
    ),
    Claim(
        "Our router and experts beat the published ones (rank 16)",
        NOTES,
        "esm_pp_route",
        "esm_pp_published_rank16_route",
    ),
    Claim("α without labels costs < 0.5 points against validation", NOTES, "esm", "esm_validation", -0.005),
    Claim("α without labels is better than the released code's", NOTES, "esm", "esm_released"),
)


def ordering(columns: Sequence[str], source: str = PAPER) -> Iterator[Claim]:
    """Every column is better than the next."""
    for left, right in itertools.pairwise(columns):
        yield Claim(f"{left} > {right}", source, left, right)


def judge(summary: Summary, claims: Sequence[Claim]) -> list[Verdict]:
    """Verdicts on the claims whose columns were measured."""
    found = summary["normalized"]
    return [
        Verdict(claim, tuple(a - b for a, b in zip(found[claim.left], found[claim.right], strict=True)))
        for claim in claims
        if claim.left in found and claim.right in found
    ]


def truncation_holds(summary: Summary, basis: str) -> dict[str, bool] | None:
    """Layer kind → whether ``basis`` loses less than SVD at every rank, in the mean over seeds."""
    return {
        kind: all(
            statistics.fmean(errors) < statistics.fmean(bases["svd"][share])
            for share, errors in bases[basis].items()
        )
        for kind, bases in summary["truncation"].items()
    }
