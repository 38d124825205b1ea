"""What every variant is, and what it leaves."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from benchmarks.quality_parts.problem import Accuracy, Problem


@dataclass(frozen=True)
class Figures:
    """One column of the benchmark: one way to merge, one seed, some tasks.

    Attributes
    ----------
    test : dict
        Task → share of test images that are classified correctly.
    validation : dict
        The same of validation images, where it was needed to choose something.
    facts : dict
        What else is worth knowing; JSON.
    """

    test: Accuracy
    validation: Accuracy = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Variant(Protocol):
    """A way to merge, or several that share work. A frozen dataclass: its fields identify what is kept."""

    @property
    def name(self) -> str:
        """Unique among the variants."""

    def measure(self, problem: Problem) -> dict[str, Figures]:
        """Column → what was measured. Choices may use proxies and ``validation`` images only."""
