"""From what was measured seed by seed to the benchmark's JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""Column → :class:`variant.Figures` as JSON, of one seed."""

Summary = dict[str, Any]

_DIGITS = 6


def summarise(by_seed: Sequence[Results]) -> Summary:
    """The figures of one number of tasks.

    Parameters
    ----------
    by_seed : sequence of Results
        In the order of the seeds; every one with the same columns, ``experts`` among them.

    Returns
    -------
    dict
        ``normalized[column]``: a list over seeds. ``accuracy[column]``: test accuracy by task, by seed.
        ``coefficient[column]``, ``routing[column]``, ``expert_bytes[column]``, ``truncation``: where there
        are any.
    """
    columns = [column for column, figures in by_seed[0].items() if figures["test"]]
    return {
        "tasks": sorted(by_seed[0]["experts"]["test"]),
        "normalized": {column: [normalised(own, column) for own in by_seed] for column in columns},
        "accuracy": {column: [_rounded(own[column]["test"]) for own in by_seed] for column in columns},
        "coefficient": _facts(by_seed, "coefficient"),
        "routing": {
            column: _routing([own[column]["facts"] for own in by_seed], sorted(by_seed[0]["experts"]["test"]))
            for column, figures in by_seed[0].items()
            if "routing" in figures["facts"]
        },
        "expert_bytes": {column: own[0] for column, own in _facts(by_seed, "expert_bytes").items()},
        "truncation": _truncation([own["truncation"]["facts"]["errors"] for own in by_seed])
        if "truncation" in by_seed[0]
        else {},
    }


def spread(values: Sequence[float]) -> str:
    """Shares as percent: the mean, and the lowest and highest in brackets where there are several."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else mean


def normalised(results: Results, column: str, split: str = "test", best: str = "experts") -> float:
    """Accuracy over that of the column of the fine-tunes, averaged over tasks."""
    own, best_of = results[column][split], results[best][split]
    return round(statistics.fmean(own[task] / best_of[task] for task in sorted(best_of)), _DIGITS)


def _rounded(accuracy: Mapping[str, float]) -> dict[str, float]:
    return {task: round(value, _DIGITS) for task, value in sorted(accuracy.items())}


def _facts(by_seed: Sequence[Results], key: str) -> dict[str, list[Any]]:
    columns = [column for column, figures in by_seed[0].items() if key in figures["facts"]]
    return {column: [own[column]["facts"][key] for own in by_seed] for column in columns}


def _routing(facts: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Summary:
    """Share of test images that reach their own expert, by seed; the mean confusion ``[task][expert]``."""
    shares = [[_row_shares(own["routing"], task) for task in tasks] for own in facts]
    count = len(tasks)
    return {
        "accuracy": [
            round(statistics.fmean(rows[place][place] for place in range(count)), _DIGITS) for rows in shares
        ],
        "confusion": [
            [round(statistics.fmean(rows[task][other] for rows in shares), _DIGITS) for other in range(count)]
            for task in range(count)
        ],
        "router": [own["router"] for own in facts],
        "held_out": [own["held_out"] for own in facts],
    }


def _row_shares(routing: Mapping[str, Mapping[str, Sequence[int]]], task: str) -> list[float]:
    """Where a task's images went, averaged over the layers that decide."""
    rows = [[count / sum(layer[task]) for count in layer[task]] for layer in routing.values()]
    return [statistics.fmean(shares) for shares in zip(*rows, strict=True)]


def _truncation(errors: Sequence[Mapping[str, Any]]) -> Summary:
    """Layer kind → basis → rank share → error, a list over seeds."""
    return {
        kind: {
            basis: {share: [round(own[kind][basis][share], _DIGITS) for own in errors] for share in by_share}
            for basis, by_share in bases.items()
        }
        for kind, bases in errors[0].items()
    }
