"""The esmerge command. Exit codes: 0 done, 2 bad input (nothing published), 1 anything else."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deployments.local import configure_environment, run_merge

configure_environment()

from esm_core.artifacts import open_version, verify_version, version_numbers  # noqa: E402
from esm_core.checkpoints.convert import convert_pickled  # noqa: E402
from esm_core.devices import check_devices  # noqa: E402
from esm_core.errors import EsmergeError, InputError  # noqa: E402
from esm_core.export import export_adapters, export_task  # noqa: E402
from esm_core.model_card import accuracy_rows, confusions, routing_rows  # noqa: E402
from esm_core.preview import preview, recall_plan  # noqa: E402
from esm_core.publish import up_to_date  # noqa: E402
from esm_core.recipe import load_recipe, recipe_schema  # noqa: E402
from esm_core.storage import Location  # noqa: E402
from esm_core.store import prepare_store  # noqa: E402
from esm_core.survey import survey  # noqa: E402

app = typer.Typer(
    help="Merge fine-tuned open_clip vision models into one, without training.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True)

RecipeArgument = Annotated[str, typer.Argument(help="Recipe: a path, file:// or s3:// URL.")]
StoreOption = Annotated[str, typer.Option(help="Store: a path, file:// or s3:// URL.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the artifact.")]
VersionArgument = Annotated[str, typer.Argument(help="latest, a number, or a label such as v000012.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("plan")
def plan_command(recipe: RecipeArgument, as_json: JsonOption = False) -> None:
    """Say what a merge would do: inputs, sizes, what is cached, and every problem. Changes nothing."""
    content = preview(survey(load_recipe(recipe)))
    if as_json:
        _print_json(content)
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
        f"{cost['shift_store_bytes'] / 1e6:.1f} MB of shifts and "
        f"{cost['merge_store_bytes'] / 1e6:.1f} MB of updates"
        + (f"; experts take {cost['expert_bytes'] / 1e6:.1f} MB" if cost["expert_bytes"] else "")
    )
    out.print(
        f"estimate: {cost['core_seconds']:.0f} core seconds, "
        f"{cost['peak_memory_bytes_per_worker'] / 1e6:.0f} MB of memory per worker beside PyTorch"
    )
    if content["up_to_date"]:
        out.print(f"up to date: {content['up_to_date']} was published from exactly this")


@app.command("merge")
def merge_command(
    recipe: RecipeArgument,
    workers: Annotated[
        int, typer.Option(min=1, help="Tasks at a time, one thread each.", envvar="ESMERGE_WORKERS")
    ] = os.cpu_count() or 1,
    as_json: JsonOption = False,
) -> None:
    """Merge the recipe's fine-tunes and publish a new version, unless nothing has changed."""
    loaded = load_recipe(recipe)
    store = Location.parse(loaded.store)
    known = recall_plan(survey(loaded))
    check_devices(loaded)
    prepare_store(store)
    current = up_to_date(known) if known else None
    before = version_numbers(store, loaded.name)
    version = current
    if version is None:
        with progress():
            label = Location(run_merge(recipe, workers)).name
        version = open_version(store, loaded.name, label)
    fresh = version.number not in before
    if as_json:
        _print_json({"published": fresh, "version": version.label, "url": version.folder.url})
        return
    _print_accuracy(version.manifest)
    if fresh:
        out.print(f"published {loaded.name} {version.label} at {version.folder}")
    else:
        out.print(f"up to date: {loaded.name} {version.label} was made from the same inputs and settings")


@app.command("versions")
def versions_command(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """List the published versions of an artifact."""
    root = Location.parse(store)
    found = [open_version(root, name, number).manifest for number in version_numbers(root, name)]
    rows = [{"version": m["version"], "created": m["created"], "identity": m["identity"]} for m in found]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        out.print(f"v{row['version']:06d}  {row['created']}  {row['identity'][:12]}")
    if not rows:
        out.print(f"{name} has no published version in {root}")


@app.command("show")
def show_command(
    name: NameArgument, store: StoreOption, version: VersionArgument = "latest", as_json: JsonOption = False
) -> None:
    """Show a version: inputs, accuracy, files. With --json the whole manifest."""
    found = open_version(Location.parse(store), name, version)
    if as_json:
        _print_json(found.manifest)
        return
    manifest = found.manifest
    out.print(f"[bold]{name} {found.label}[/bold] of {manifest['created']} at {found.folder}")
    out.print(f"architecture {manifest['architecture']['name']}, alpha {manifest['alpha']}{_how(manifest)}")
    for task, facts in manifest["inputs"]["tasks"].items():
        out.print(f"  {task}: {facts['checkpoint']['url']} (sha256 {facts['checkpoint']['sha256'][:12]})")
    if manifest.get("experts"):
        _print_experts(manifest)
    for path, facts in manifest["files"].items():
        out.print(f"  {path}: {facts['bytes']} bytes, sha256 {facts['sha256'][:12]}")
    _print_accuracy(manifest)


@app.command("verify")
def verify_command(
    name: NameArgument, store: StoreOption, version: VersionArgument = "latest", as_json: JsonOption = False
) -> None:
    """Read every file of a version and compare it with the manifest."""
    found = open_version(Location.parse(store), name, version)
    verify_version(found)
    if as_json:
        _print_json({"version": found.label, "files": len(found.manifest["files"]), "intact": True})
        return
    out.print(f"{name} {found.label}: {len(found.manifest['files'])} files, all intact")


@app.command("export")
def export_command(
    name: NameArgument,
    store: StoreOption,
    target: Annotated[str, typer.Option("--out", help="Folder to write to: absent or empty.")],
    version: VersionArgument = "latest",
    as_peft: Annotated[bool, typer.Option("--peft", help="One PEFT adapter per task.")] = False,
    task: Annotated[str | None, typer.Option(help="One task's expert as a full open_clip model.")] = None,
) -> None:
    """Write the experts of a version for other software: PEFT adapters, or one dense open_clip model."""
    if as_peft == (task is not None):
        raise InputError("export writes one of two things: give --peft, or --task with the name of a task.")
    found, folder = open_version(Location.parse(store), name, version), Location.parse(target)
    if task is not None:
        export_task(found, task, folder)
        out.print(f"wrote the expert of {task} of {name} {found.label} to {folder}")
        return
    for made, adapter in export_adapters(found, folder).items():
        out.print(
            f"wrote {folder / made}: {len(adapter.low_rank)} matrices in low rank, {len(adapter.modules)} "
            f"parameters of norms, {len(adapter.whole)} parameters whole; left out: nothing"
        )
    out.print("Put one adapter on a model, not several: see the README.md of each.")


@app.command("convert")
def convert_command(
    source: Annotated[str, typer.Argument(help="A pickled PyTorch file that you trust.")],
    target: Annotated[str, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Turn a TRUSTED pickled module into safetensors. Loading a pickle can run any code in it.

    This is the only command that unpickles anything.
    """
    convert_pickled(Location.parse(source), Location.parse(target))
    out.print(f"wrote {target}")


@app.command("schema")
def schema_command() -> None:
    """Print the recipe's JSON Schema, for editors."""
    sys.stdout.write(recipe_schema())


@contextlib.contextmanager
def progress() -> Iterator[None]:
    """Print what tasks report meanwhile, with the seconds since the start, on standard error."""
    started = time.monotonic()

    class Progress(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {record.getMessage()}\n")
            sys.stderr.flush()

    logger = logging.getLogger("esmerge")
    logger.setLevel(logging.INFO)
    handler = Progress()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _how(manifest: Any) -> str:
    """How α was chosen; manifests of the first releases do not say it, theirs is always fixed."""
    search = manifest.get("alpha_search", {"method": "fixed"})
    if search["method"] == "fixed":
        return " (fixed)"
    best = max(score for _, score in search["curve"])
    return f" ({search['method']} search: best of {len(search['curve'])} values, score {best:.4f})"


def _print_experts(manifest: Any) -> None:
    facts = manifest["experts"]
    settings, held_out = facts["settings"], facts["held_out"].get(facts["router"])
    static = manifest["files"]["model/open_clip_model.safetensors"]["bytes"]
    size = f"{facts['bytes'] / 1e6:.1f} MB beside a model of {static / 1e6:.1f} MB"
    out.print(f"experts: rank {settings['rank']}, {size}")
    known = f", right on {100 * held_out['accuracy']:.1f} % of held-out proxies" if held_out else ""
    out.print(f"router: {facts['router']}, decides once per {facts['scope']}{known}")
    if held_out and (wrong := confusions(held_out["confusion"])):
        out.print(f"  most often wrong: {', '.join(wrong)}")


def _print_accuracy(manifest: Any) -> None:
    header, rows = accuracy_rows(manifest["metrics"]["accuracy"])
    _print_table("Accuracy on the test images, %", "normalised: accuracy over the expert's", header, rows)
    _print_table("Test images routed to their own expert, %", "", *routing_rows(manifest["metrics"]))


def _print_table(title: str, caption: str, header: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(header):
        table.add_column(column.replace(" ", "\n"), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        if row[0] == "mean":
            table.add_section()
        table.add_row(*row)
    out.print(f"\n[bold]{title}[/bold]")
    # As wide as it is, whatever the terminal: squeezed columns cannot be read.
    Console(highlight=False, width=1000).print(table)
    if caption:
        out.print(caption)


def main() -> None:
    """Run the command; one clear message and the right exit code instead of a traceback."""
    try:
        app()
    except EsmergeError as error:
        sys.stderr.write(f"esmerge: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
