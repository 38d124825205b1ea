"""Whether a version was made from the collected inputs of the one before it."""

from collections.abc import Iterable
from typing import Any

from esm_core.errors import EsmergeError


def check_reuse(before: dict[str, Any], after: dict[str, Any], lines: Iterable[str]) -> str:
    """Check that only the new fine-tunes were collected.

    Parameters
    ----------
    before, after : dict
        Manifests of two versions, of which the second has more tasks.
    lines : iterable of str
        What the merge of the second logged.

    Returns
    -------
    str
        The finding, for people.

    Raises
    ------
    EsmergeError
        A task's shifts are not those of the version before, or the log says that it was collected again.
    """
    old, new = before["inputs"]["tasks"], after["inputs"]["tasks"]
    added = sorted(set(new) - set(old))
    changed = [name for name in old if _shifts(old[name]) != _shifts(new.get(name, {}))]
    logged = list(lines)
    collected = sorted(name for name in new if any(_says(line, "collected", name) for line in logged))
    reused = sorted(name for name in old if any(_says(line, "reused", name) for line in logged))
    if changed or collected != added or reused != sorted(old):
        raise EsmergeError(
            f"Only {', '.join(added)} should have been collected, but the log says {', '.join(collected)}; "
            f"reused: {', '.join(reused)}; shifts that differ: {', '.join(changed) or 'none'}."
        )
    return f"collected {', '.join(added)}; reused the shifts of {', '.join(reused)}"


def _shifts(task: dict[str, Any]) -> Any:
    return task.get("proxies", {}).get("shifts")


def _says(line: str, what: str, name: str) -> bool:
    return line.startswith(f"{what} ") and name in line.removeprefix(what).split()
