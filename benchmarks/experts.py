"""How much experts and routers give: the demo's tasks, several seeds, the published settings beside ours.

``python benchmarks/experts.py --out .bench --json RESULTS.json`` makes the demo's fine-tunes for every seed
(once), merges them with every setting below, and prints the mean over seeds. Stages are shared through
one store per seed, so a second run only reads. ``--on validation`` measures on the validation images:
settings are chosen there, the test images are for the result.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

# This checkout's code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deployments.local import configure_environment, run_merge

configure_environment()

from demo.prepare import QUICK_SCHEDULE, QUICK_SIZES, SCHEDULE, SIZES, prepare  # noqa: E402
from esm_core.artifacts import open_version  # noqa: E402
from esm_core.model_card import normalised  # noqa: E402
from esm_core.storage import Location  # noqa: E402

TWO = ["attn.in_proj", "mlp.c_fc"]
COMPARED = ("esm", "tsv_m", "esm_pp_route", "esm_pp_oracle")


@dataclass(frozen=True)
class Variant:
    """One setting of the experts; ``experts`` is what the recipe says."""

    label: str
    experts: dict[str, Any]


VARIANTS = (
    Variant(
        "published: two layers, cosine",
        {"layers": TWO, "extras": False, "router": "cosine"},
    ),
    Variant("published layers, chosen router", {"layers": TWO, "extras": False}),
    Variant("four layers, cosine", {"extras": False, "router": "cosine"}),
    Variant("four layers", {"extras": False}),
    Variant("four layers + extras (default)", {}),
    Variant("default, token_gaussian", {"router": "token_gaussian"}),
    Variant("default, token_moments", {"router": "token_moments"}),
    Variant("default, 32 proxies", {"proxies": 32}),
    Variant("default, rank 8", {"rank": 8}),
    Variant("default, rank 32", {"rank": 32}),
    Variant("default, float16", {"dtype": "float16"}),
)


def measure(folder: Path, variant: Variant, split: str, workers: int) -> dict[str, Any]:
    """Merge the fine-tunes in ``folder`` with a variant's experts; one row of figures in percent."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    # A name for each, so that every variant has a version of its own.
    name = f"{split}-{VARIANTS.index(variant)}"
    recipe |= {"name": name, "experts": variant.experts}
    if split == "validation":
        recipe["tasks"] = [{**task, "test": task["validation"]} for task in recipe["tasks"]]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    store = Location.parse(str(folder / recipe["store"]))
    label = Location(run_merge(str(path), workers)).name
    manifest = open_version(store, name, label).manifest
    metrics, experts = manifest["metrics"], manifest["experts"]
    shares = dict(zip(COMPARED, normalised(metrics["accuracy"], list(COMPARED)), strict=True))
    return {
        "variant": variant.label,
        "on": split,
        "alpha": manifest["alpha"],
        **{method: 100 * share for method, share in shares.items()},
        "routing": 100 * statistics.mean(metrics["routing_accuracy"].values()),
        "router": experts["router"],
        "held_out": {name: 100 * facts["accuracy"] for name, facts in experts["held_out"].items()},
        "expert_megabytes": experts["bytes"] / 1e6,
        "static_megabytes": manifest["files"]["model/open_clip_model.safetensors"]["bytes"] / 1e6,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Means over seeds, the lowest and highest seed in brackets."""
    found = Table("experts", "routed", "oracle", "routing", "MB", title="Normalised accuracy, %")
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant.label]
        if own:
            columns = ("esm_pp_route", "esm_pp_oracle", "routing")
            cells = [_spread([row[column] for row in own]) for column in columns]
            found.add_row(variant.label, *cells, f"{statistics.mean(r['expert_megabytes'] for r in own):.2f}")
    found.add_section()
    for label, column in (("no experts: ESM", "esm"), ("no experts: TSV-M", "tsv_m")):
        found.add_row(label, _spread([row[column] for row in rows if row["variant"] == VARIANTS[0].label]))
    return found


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Parse the arguments, merge, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder for models and stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--on", choices=("test", "validation"), default="test", help="images to measure on")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--workers", type=int, default=2, help="tasks at a time")
    parser.add_argument("--quick", action="store_true", help="tiny, poor models: only that it runs")
    arguments = parser.parse_args()
    sizes, schedule = (QUICK_SIZES, QUICK_SCHEDULE) if arguments.quick else (SIZES, SCHEDULE)
    rows = []
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, sizes, schedule, seed)
        for variant in VARIANTS:
            rows.append({"seed": seed, **measure(folder, variant, arguments.on, arguments.workers)})
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=110).print(table(rows))


if __name__ == "__main__":
    main()
