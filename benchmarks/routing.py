"""What routing costs beside the static model, and beside dense updates per image.

``python benchmarks/routing.py --json PATH [--quick]``: one CPU thread, float32, ViT-B/32 of random weights.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

# This checkout's code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.accuracy import score_error
from benchmarks.dense import DenseTower
from benchmarks.parts import (
    bank_bytes,
    make_experts,
    make_images,
    predicted_bytes,
    prototypes,
    static_tower,
    stored_bytes,
    token_moments,
)
from benchmarks.timing import Times, interleaved, ratio
from esm_core.routing import RoutedTower

VARIANTS = [("published", "token_moments"), ("published", "cosine")] + [
    (layers, "token_moments") for layers in ("four", "four+extras")
]
TOLERANCE = 1e-4

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Sizes to measure at, and rounds by batch size (the smallest first: it warms up what follows)."""

    tasks: tuple[int, ...]
    ranks: tuple[int, ...]
    rounds: dict[int, int]


FULL = Case((8, 20), (16, 32), {1: 21, 32: 3, 128: 1})
QUICK = Case((8,), (16,), {1: 5, 32: 1})


def measure(case: Case) -> list[Row]:
    """Rows of all sizes; those of the published layers with the default router first."""
    rows = [
        row
        for tasks in case.tasks
        for rank in case.ranks
        for row in _measure_experts(tasks, rank, case.rounds)
    ]
    return sorted(rows, key=lambda row: VARIANTS.index((row["layers"], row["router"])))


def _measure_experts(tasks: int, rank: int, rounds: dict[int, int]) -> Iterator[Row]:
    static = static_tower().module
    scorers = {"token_moments": token_moments(tasks), "cosine": prototypes(tasks)}
    experts = {
        (layers, router): make_experts(layers, tasks, rank, router, scorers[router])
        for layers, router in VARIANTS
    }
    towers = {variant: RoutedTower(static, own) for variant, own in experts.items()}
    default = towers[VARIANTS[0]]
    score = default.scorers["image"]
    dense = DenseTower(static, experts[VARIANTS[0]], score)
    for batch, count in rounds.items():
        images = make_images(torch.arange(batch) % tasks, seed=2)
        with torch.inference_mode():
            check_equal(default(images[:4]), dense(images[:4]))
            calls: dict[str, Callable[[], Any]] = {
                "static": partial(static, images),
                "dense": partial(dense, images),
                "router": partial(score, default.tokens(images)),
            }
            for variant, tower in towers.items():
                calls["/".join(variant)] = partial(tower, images)
            times = interleaved(calls, count)
        for layers, router in VARIANTS:
            sizes = {"tasks": tasks, "rank": rank, "batch": batch, "layers": layers, "router": router}
            yield (
                sizes
                | {"rounds": count}
                | _times_of(times, layers, router)
                | _bytes_of(
                    towers[layers, router], stored_bytes(experts[layers, router]), layers, tasks, rank
                )
                | (score_error(tasks) if router == "token_moments" else {})
            )


def check_equal(routed: Tensor, dense: Tensor) -> None:
    """The two ways to route agree, or nothing is worth timing."""
    error = float((routed - dense).norm() / dense.norm())
    if error > TOLERANCE:
        raise SystemExit(f"routed and dense outputs differ by {error:.1e} (relative); nothing was timed.")


def _times_of(times: Times, layers: str, router: str) -> Row:
    name = f"{layers}/{router}"
    return {
        "ratio_to_static": ratio(times, name, "static"),
        # The dense tower has the published layers only, so this says too little of what others save.
        "ratio_to_dense": ratio(times, name, "dense"),
        "router_share": ratio(times, "router", "static") if router == "token_moments" else None,
    }


def _bytes_of(tower: RoutedTower, stored: int, layers: str, tasks: int, rank: int) -> Row:
    predicted = predicted_bytes(layers, tasks, rank)
    assert stored == predicted, (stored, predicted)
    return {
        "expert_bytes": stored,
        "expert_bytes_predicted": predicted,
        "bank_bytes": bank_bytes(tower),
        "static_bytes": sum(weight.nbytes for weight in static_tower().weights.values()),
    }


def show(rows: list[Row], console: Console) -> None:
    """The rows as a table, most telling columns only."""
    heads = ["layers", "router", "tasks", "rank", "batch", "× static", "× dense", "router"]
    table = Table(*heads, "stored MB", "held MB")
    for row in rows:
        share = row["router_share"]
        table.add_row(
            *(str(row[key]) for key in ("layers", "router", "tasks", "rank", "batch")),
            f"{row['ratio_to_static']:.2f}",
            f"{row['ratio_to_dense']:.2f}",
            "" if share is None else f"{share:.1%}",
            f"{row['expert_bytes'] / 1e6:.1f}",
            f"{row['bank_bytes'] / 1e6:.1f}",
        )
    console.print(table)


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="one size, few rounds: seconds, and noisy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(QUICK if options.quick else FULL)
    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows, Console(width=None if sys.stdout.isatty() else 110))


if __name__ == "__main__":
    main()
