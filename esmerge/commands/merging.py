"""plan, merge, schema: from a recipe to a version."""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from esmerge.arguments import JsonOption, RecipeArgument
from esmerge.command import Command, Panel
from esmerge.failures import interrupted
from esmerge.interrupt import ended_by_ctrl_c
from esmerge.output import out, print_accuracy, print_json
from esmerge.progress import progress

if TYPE_CHECKING:
    from deployments.local import Run


def plan_command(recipe: RecipeArgument, as_json: JsonOption = False) -> None:
    """Say what a merge would do: inputs, sizes, what is cached, and every problem. Changes nothing."""
    from esm_core.preview import preview
    from esm_core.registry import load_resolved
    from esm_core.survey import survey

    content = preview(survey(load_resolved(recipe)))
    if as_json:
        print_json(content)
        return
    out.print(f"[bold]{content['name']}[/bold] → {content['store']}")
    out.print(f"architecture {content['architecture']} ({content['activation']})")
    out.print(f"text tower: {content['text_tower']}")
    table = Table("task", "checkpoint", "MB", "proxies", "activation", "collected")
    for name, task in content["tasks"].items():
        collected = {None: "not inspected yet", True: "cached", False: "to do"}[task["collected"]]
        size = f"{task['bytes'] / 1e6:.1f}"
        row = (name, task["layout"], size, str(task["proxy_images"]), task["activation_source"], collected)
        table.add_row(*row)
    out.print(table)
    weights, done = content["weights"], content["layers_merged"]
    out.print(
        f"weights: {weights['essential']} by essential subspaces, {weights['tsv_m']} by TSV-M, "
        f"{weights['mean']} by their mean; merged already: {'unknown' if done is None else done}"
    )
    searched = content["alpha"] != content["alpha_value"]
    value = "not searched yet" if content["alpha_value"] is None else content["alpha_value"]
    out.print(f"alpha: {content['alpha']}{f' ({value})' if searched else ''}")
    cost = content["estimates"]
    out.print(
        f"reads {cost['checkpoint_bytes'] / 1e6:.1f} MB of fine-tunes; stores "
        f"{cost['shift_store_bytes'] / 1e6:.1f} MB of shifts, "
        f"{cost['basis_store_bytes'] / 1e6:.1f} MB of decompositions and "
        f"{cost['merge_store_bytes'] / 1e6:.1f} MB of updates"
        + (f"; experts take {cost['expert_bytes'] / 1e6:.1f} MB" if cost["expert_bytes"] else "")
    )
    out.print(
        f"estimate: {cost['core_seconds']:.0f} core seconds, "
        f"{cost['peak_memory_bytes_per_worker'] / 1e6:.0f} MB of memory per worker beside PyTorch"
    )
    if content["up_to_date"]:
        out.print(f"up to date: {content['up_to_date']} was published from exactly this")


def merge_command(
    recipe: RecipeArgument,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Tasks at a time.", envvar="ESMERGE_WORKERS", show_default="one per core"),
    ] = os.cpu_count() or 1,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress on standard error, only errors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge the recipe's fine-tunes and publish a new version, unless nothing has changed.

    Progress is on standard error: bars on a terminal, else a line per part. After Ctrl-C, or whatever stopped
    it, the same command goes on from what is finished.
    """
    # A KeyboardInterrupt while PyTorch is being imported aborts the process, with C++'s message.
    with ended_by_ctrl_c(lambda: None, lambda: interrupted(as_json)):
        from deployments.local import Run
        from esm_core.artifacts import open_version, version_numbers
        from esm_core.gate import apply_gate, verdict_line
        from esm_core.preview import recall_plan
        from esm_core.publish import up_to_date
        from esm_core.registry import load_resolved
        from esm_core.storage import Location
        from esm_core.store import prepare_store
        from esm_core.survey import survey

    loaded = load_resolved(recipe)
    store = Location.parse(loaded.store)
    known = recall_plan(survey(loaded))
    prepare_store(store)
    current = up_to_date(known) if known else None
    before = version_numbers(store, loaded.name)
    version = current
    # The flow has a gate of its own.
    verdict = apply_gate(store, loaded, version) if version and loaded.promote_if else None
    if version is None:
        label = Location(_run(Run(), recipe, workers, quiet, as_json)).name
        version = open_version(store, loaded.name, label)
    fresh = version.number not in before
    if as_json:
        print_json({"published": fresh, "version": version.label, "url": version.folder.url})
        return
    print_accuracy(version.manifest)
    if fresh:
        out.print(f"published {loaded.name} {version.label} at {version.folder}")
    else:
        out.print(f"up to date: {loaded.name} {version.label} was made from the same inputs and settings")
    if verdict is not None:
        out.print(verdict_line(loaded, version, verdict))


def _run(run: "Run", recipe: str, workers: int, quiet: bool, as_json: bool) -> str:
    shown = contextlib.ExitStack()

    def end() -> int:
        shown.close()
        return interrupted(as_json)

    with ended_by_ctrl_c(run.abandon, end), shown:
        shown.enter_context(progress(quiet))
        return run.merge(recipe, workers)


def schema_command(as_json: JsonOption = True) -> None:
    """Print the recipe's JSON Schema, for editors. It is JSON with and without --json."""
    from esm_core.recipe_file import recipe_schema

    sys.stdout.write(recipe_schema())


_TASK = (
    '"checkpoint": "file:///home/ann/cars.safetensors", "layout": "open_clip (visual.*)", '
    '"bytes": 351000000, "proxy_images": 32, "activation_source": "the recipe", '
    '"ignored_tensors": 0, "collected": true'
)

COMMANDS = (
    Command(
        "plan",
        plan_command,
        Panel.MERGE,
        (
            "$ esmerge plan recipe.yaml",
            "$ esmerge plan s3://models/recipe.yaml --json",
        ),
        '{"name": "pets", "store": "file:///home/ann/store", "architecture": "ViT-B-32", '
        '"activation": "gelu", "text_tower": "from the base", "alpha": "label_free", "alpha_value": null, '
        f'"tasks": {{"cars": {{{_TASK}}}}}, "weights": {{"essential": 36, "tsv_m": 14, "mean": 102}}, '
        '"layers_merged": 0, "static_done": false, "up_to_date": null, '
        '"estimates": {"core_seconds": 300.0, "peak_memory_bytes_per_worker": 1e9}}',
    ),
    Command(
        "merge",
        merge_command,
        Panel.MERGE,
        (
            "$ esmerge merge recipe.yaml",
            "$ esmerge merge recipe.yaml --workers 4 --quiet --json  # in a script",
        ),
        '{"published": true, "version": "v000012", "url": "file:///home/ann/store/artifacts/pets/v000012"}',
    ),
    Command(
        "schema",
        schema_command,
        Panel.MERGE,
        ("$ esmerge schema > recipe.schema.json",),
        '{"title": "Recipe", "type": "object", "properties": {}, "required": ["name", "store", "base"]}',
    ),
)
