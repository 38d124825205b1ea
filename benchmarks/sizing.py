"""What a merge stores and needs, per size of tower and number of tasks: ``python -m benchmarks.sizing``.

Estimates, computed from the shapes of the towers; nothing is merged. They are those of ``esmerge plan``.
"""

import argparse
import json
import math
from typing import Any

from esm_core.architecture import load_architecture, tower_shapes
from esm_core.preview import estimates, measured_rate
from esm_core.recipe import Recipe
from esm_core.storage import Location

TOWERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
TASKS = (4, 8, 20)
_FLOAT32 = 4


def recipe_of(tasks: int, samples: int) -> Recipe:
    """A recipe with the default settings and experts; its files need not be there."""
    specs = [
        {"name": f"task-{n}", "checkpoint": f"{n}.safetensors", "proxy": f"{n}"} for n in range(1, tasks + 1)
    ]
    base = {"architecture": "given", "checkpoint": "base.safetensors"}
    facts = {"name": "sizing", "store": "store", "base": base, "tasks": specs, "samples": samples}
    return Recipe.model_validate({**facts, "experts": {}})


def row(tower: str, tasks: int, rate: float, samples: int = 32) -> dict[str, Any]:
    """Bytes and core seconds of one merge with experts; the label-free search for α by itself.

    Parameters
    ----------
    tower : str
        open_clip's name of the model.
    tasks, samples : int
        Fine-tunes, and proxy images of each.
    rate : float
        Float64 operations per second of one core.
    """
    shapes = tower_shapes(load_architecture(tower, Location.parse("/")))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    searched = recipe_of(tasks, samples)
    fixed = estimates(searched.model_copy(update={"alpha": 1.0}), shapes, rate)
    search = estimates(searched, shapes, rate)["core_seconds"] - fixed["core_seconds"]
    return {
        "tower": tower,
        "tasks": tasks,
        "parameters": parameters,
        "fine_tune_bytes": tasks * _FLOAT32 * parameters,
        **fixed,
        "search_core_seconds": search,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of a Markdown table; minutes are those of one core."""
    lines = [
        "| tower | tasks | fine-tunes | shifts | decompositions | merged updates | experts | memory | merge "
        "| search |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        kinds = ("fine_tune", "shift_store", "basis_store", "merge_store", "expert")
        sizes = [_size(r[f"{kind}_bytes"]) for kind in kinds]
        memory = _size(r["peak_memory_bytes_per_worker"])
        minutes = [f"{r[kind] / 60:.0f} min" for kind in ("core_seconds", "search_core_seconds")]
        lines.append("| " + " | ".join([r["tower"], str(r["tasks"]), *sizes, memory, *minutes]) + " |")
    return lines


def main() -> None:
    """Print the table as Markdown, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, help="GFLOP/s of one core in float64; by default measured")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    # The best of a few: other work on the machine only makes it look slower.
    rate = 1e9 * arguments.rate if arguments.rate else max(measured_rate() for _ in range(5))
    rows = [row(tower, tasks, rate) for tower in TOWERS for tasks in TASKS]
    if arguments.json:
        print(json.dumps({"rate": rate, "rows": rows}, indent=2))
        return
    print(f"{rate / 1e9:.1f} GFLOP/s per core in float64\n")
    print("\n".join(table(rows)))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
