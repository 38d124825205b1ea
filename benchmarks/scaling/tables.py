"""Pieces of Markdown that several tables share."""

from collections.abc import Sequence
from typing import Any


def size(count: float) -> str:
    """Bytes, readable."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def seconds(count: float) -> str:
    """Seconds, readable."""
    return f"{count:.2f} s" if count < 10 else f"{count:.0f} s" if count < 600 else f"{count / 60:.0f} min"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table as lines; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def machine_line(facts: dict[str, Any], threads: int) -> str:
    """What a result was measured on, as an item of a list."""
    return (
        f"- Commit {facts['commit']}, torch {facts['torch']}; {facts['cores']} cores ({facts['cpu']}), "
        f"{size(facts['memory_bytes'])} of memory; {threads} thread(s); "
        f"load at the start {facts['load_average']}"
    )
