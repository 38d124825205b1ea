"""Whether settings that a merge chooses without labels beat the published ones, on seeds held out for it."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.quality_parts import words
from benchmarks.quality_parts.aggregate import Results, normalised
from benchmarks.quality_parts.candidates import CANDIDATES, FINE_TUNES, PUBLISHED_CANDIDATE
from benchmarks.scaling.tables import markdown

Automatic = dict[str, Any]

RULES = {"displacement": "the score that α is searched by", "agreement": "agreement with the fine-tunes"}
"""Fact of a candidate that is maximised → what it is called."""

LABELS = {
    "candidate_released_alpha": "α = 2, the released code's, without a search",
    "candidate_no_eigen_weights": "without eigenvalue weights",
    "candidate_no_inter_task": "without inter-task scaling",
    "candidate_no_inter_dimension": "without inter-dimension scaling",
    "candidate_no_inter_layer": "without inter-layer scaling",
    "candidate_exponent_1": "scaling exponent 1",
    "candidate_exponent_3": "scaling exponent 3",
    "candidate_energy_split": "directions shared out by energy",
    "candidate_out_proj": "ESD for `attn.out_proj`",
    "candidate_proj": "ESD for `proj`",
    "candidate_conv1": "ESD for `conv1`",
    "candidate_out_proj_proj_conv1": "ESD for all three",
}


def choose(results: Results, rule: str) -> str:
    """The candidate that ``rule`` takes for one seed; the published settings where others only equal them."""
    names = [candidate.name for candidate in CANDIDATES]
    return max(names, key=lambda name: float(results[name]["facts"][rule]))


def automatic(development: Sequence[Results], held_out: Sequence[Results]) -> Automatic:
    """Gains over the published settings in normalised accuracy, by seed; nothing where nothing was measured.

    Parameters
    ----------
    development : sequence of Results
        Seeds that candidates and rules could be picked on: validation images count.
    held_out : sequence of Results
        Seeds that nothing was picked on: test images count.

    Returns
    -------
    dict
        ``candidates[column]`` and ``rules[rule]``, each with ``development`` and ``held_out`` lists; a rule
        also with what it chose.
    """
    if not development or PUBLISHED_CANDIDATE not in development[0]:
        return {}
    parts = {"development": (development, "validation"), "held_out": (held_out, "test")}

    def gains(name: str) -> dict[str, list[float]]:
        return {part: [_gain(own, name, split) for own in seeds] for part, (seeds, split) in parts.items()}

    def by_rule(rule: str) -> dict[str, list[Any]]:
        chosen = {part: [choose(own, rule) for own in seeds] for part, (seeds, _) in parts.items()}
        found: dict[str, list[Any]] = {
            part: [_gain(own, name, split) for own, name in zip(seeds, chosen[part], strict=True)]
            for part, (seeds, split) in parts.items()
        }
        return found | {"chosen": [*chosen["development"], *chosen["held_out"]]}

    return {
        "candidates": {name: gains(name) for name in LABELS},
        "rules": {rule: by_rule(rule) for rule in RULES},
    }


def section(
    by_tasks: Mapping[int, Automatic], seeds: Sequence[int], held_out: Sequence[int]
) -> Iterator[str]:
    """The page's section as lines of Markdown."""
    if not all(by_tasks.values()):
        return
    yield from ("## Settings chosen automatically", "")
    yield words.AUTOMATIC.format(seeds=_listed(seeds), held_out=_listed(held_out) if held_out else "none")
    heads = [f"{count} tasks, {part}" for count in by_tasks for part in ("validation", "held out")]
    rows = [
        [label, *_cells([own["candidates"][name] for own in by_tasks.values()])]
        for name, label in LABELS.items()
    ]
    chosen = [
        [f"**chosen by {label}**", *_cells([own["rules"][rule] for own in by_tasks.values()])]
        for rule, label in RULES.items()
    ]
    yield from markdown(["", *heads], [*chosen, *rows])
    yield ""
    if held_out:
        winners = sorted(
            (RULES | LABELS)[name]
            for name in (*RULES, *LABELS)
            if all(_wins({**own["rules"], **own["candidates"]}[name]) for own in by_tasks.values())
        )
        counts = " and ".join(f"T = {count}" for count in sorted(by_tasks))
        yield (
            f"Better than the published settings in the mean over the held-out seeds, at {counts}: "
            f"{', '.join(winners) or 'none'}."
        )
        yield ""


def _wins(gains: Mapping[str, Sequence[float]]) -> bool:
    return statistics.fmean(gains["held_out"]) > 0


def _gain(results: Results, name: str, split: str) -> float:
    own, published = (
        normalised(results, column, split, FINE_TUNES.name) for column in (name, PUBLISHED_CANDIDATE)
    )
    return round(own - published, 6)


def _cells(found: Sequence[Mapping[str, Sequence[float]]]) -> list[str]:
    return [_points(own[part]) for own in found for part in ("development", "held_out")]


def _points(gains: Sequence[float]) -> str:
    if not gains:
        return ""
    low, high = (100 * end for end in (min(gains), max(gains)))
    return f"{100 * statistics.fmean(gains):+.2f} ({low:+.2f} to {high:+.2f})"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
