"""What a report is made of: sections with figures, tables and code. The template knows nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

Cell = str
"""Text of a table's cell; the template escapes it."""


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes
    ----------
    texts : int
        How many columns, from the left, hold text; the others hold numbers and are set to the right.
    tones : mapping
        (row, column) → ``good``, ``bad`` or ``strong``.
    digests : set of int
        Columns of sha256.
    folded : bool
        Whether it is long and closed until it is asked for.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1
    tones: Mapping[tuple[int, int], str] = field(default_factory=dict)
    digests: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A vector plot and the numbers it shows.

    Attributes
    ----------
    note : str
        One sentence below it, or nothing.
    data : Table, optional
        Text alternative, closed until it is asked for. None where the plot writes its numbers itself.
    open : bool
        Show the data beside the plot.
    """

    title: str
    svg: Markup
    note: str = ""
    data: Table | None = None
    open: bool = False


@dataclass(frozen=True)
class Badge:
    """A verdict: a word and the sentence that explains it."""

    tone: Literal["good", "bad", "mixed", "plain"]
    word: str
    text: str


@dataclass(frozen=True)
class Tile:
    """A number to see first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Code:
    """Something to copy."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A section of the report; ``id`` is its anchor.

    Attributes
    ----------
    lead : list of str
        Paragraphs. Where there is nothing to show, one sentence says why.
    large : bool
        Whether its figures need more room than a panel of bars.
    """

    id: str
    title: str
    lead: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    badges: Sequence[Badge] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    codes: Sequence[Code] = ()
    large: bool = False


def percent(share: float | None, digits: int = 1) -> str:
    """``93.1`` for 0.931; a dash where there is nothing."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(change: float | None) -> str:
    """A difference of shares in percentage points, with its sign: ``+1.2``, ``−0.4``, ``0.0``."""
    if change is None:
        return "–"
    text = f"{100 * change:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def size(count: float) -> str:
    """Bytes for people: ``4.9 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"


def plural(count: int, one: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"
