"""land, registry: fine-tunes into the registry, and what is in it."""

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from esm_core.errors import InputError
from esm_core.storage import Location
from esmerge.arguments import JsonOption
from esmerge.command import Command, Panel
from esmerge.output import out, print_json

if TYPE_CHECKING:
    from esm_core.recipe import ZeroShotSpec

RegistryArgument = Annotated[str, typer.Argument(help="Registry: a path, file:// or s3:// URL.")]
_IMAGES = "image folder, webdataset tar(s) or Parquet"


def land_command(
    registry: RegistryArgument,
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    checkpoint: Annotated[str, typer.Option(help="The fine-tuned checkpoint.")],
    proxy: Annotated[str, typer.Option(help=f"Unlabelled proxy images: {_IMAGES}.")],
    validation: Annotated[str | None, typer.Option(help="Labelled validation images.")] = None,
    test: Annotated[str | None, typer.Option(help="Labelled test images.")] = None,
    head: Annotated[str | None, typer.Option(help="Linear head: weight and optional bias.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Text file with a class name per line, in label order.")
    ] = None,
    zero_shot: Annotated[
        str | None, typer.Option(help="YAML file with classes and templates, instead of --classes.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="gelu or quick_gelu, where the file does not say it.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Compare it with this base checkpoint.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Compare it with this architecture: a name or a JSON file.")
    ] = None,
    copy: Annotated[
        bool | None,
        typer.Option(
            "--copy/--point",
            help="Copy images into the registry, or note where they are. By default local ones are copied, "
            "those on S3 are pointed at.",
            show_default=False,
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(help="A line for people.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Land it although the newest version holds the same.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a fine-tune and land it in the registry as the next version of its task.

    Nothing is uploaded unless all of it can be used. The same content as the newest version is not
    landed again.
    """
    from deployments.notify import announce
    from esm_core.recipe import Activation
    from esm_core.registry import Landing, land

    if activation is not None and activation not in get_args(Activation):
        raise InputError(f"--activation: {activation!r} is neither gelu nor quick_gelu.")
    landing = Landing(
        task=task,
        checkpoint=Location.parse(checkpoint.removeprefix("local-dir:")),
        proxy=Location.parse(proxy),
        validation=_optional(validation),
        test=_optional(test),
        head=_optional(head),
        zero_shot=_zero_shot(classes, zero_shot),
        activation=activation,  # type: ignore[arg-type]  # checked above
        base=_optional(base.removeprefix("local-dir:") if base else None),
        architecture=_architecture(architecture),
        note=note,
        copy=copy,
    )
    landed = land(Location.parse(registry), landing, force)
    told = announce(landed.task, landed.version, landed.url) if landed.fresh else ""
    if as_json:
        facts = {"task": landed.task, "version": landed.version, "url": landed.url, "landed": landed.fresh}
        print_json(facts)
    elif landed.fresh:
        out.print(f"landed {landed.task} {landed.version} at {landed.url}")
        out.print(told)
    else:
        out.print(f"nothing landed: {landed.task} {landed.version} holds the same (--force lands it again)")


def registry_command(registry: RegistryArgument, as_json: JsonOption = False) -> None:
    """List the tasks of a registry and their versions."""
    from esm_core.registry import tasks, versions

    root = Location.parse(registry)
    found = {task: [_row(root, task, number) for number in versions(root, task)] for task in tasks(root)}
    if as_json:
        print_json(found)
        return
    for task, rows in found.items():
        for row in rows:
            note = f"  {row['note']}" if row["note"] else ""
            out.print(f"{task}  {row['version']}  {row['created']}  {row['bytes'] / 1e6:.1f} MB{note}")
    if not found:
        out.print(f"{root} holds no fine-tune")


def _row(root: Location, task: str, number: int) -> dict[str, Any]:
    from esm_core.claims import version_label
    from esm_core.registry import read_finetune

    finetune = read_finetune(root, task, number)
    return {
        "version": version_label(number),
        "created": finetune.created,
        "sha256": finetune.files[finetune.checkpoint].sha256,
        "bytes": sum(facts.bytes for facts in finetune.files.values()),
        "note": finetune.note,
    }


def _optional(text: str | None) -> Location | None:
    return None if text is None else Location.parse(text)


def _architecture(text: str | None) -> str | None:
    return Location.parse(text).url if text is not None and text.endswith(".json") else text


def _zero_shot(classes: str | None, zero_shot: str | None) -> "ZeroShotSpec | None":
    from esm_core.recipe import ZeroShotSpec
    from esm_core.recipe_file import parse_yaml, read_text, validated

    if classes is not None and zero_shot is not None:
        raise InputError("give --classes or --zero-shot, not both.")
    if classes is not None:
        file = Location.parse(classes)
        names = [line.strip() for line in read_text(file, "a list of classes").splitlines() if line.strip()]
        return validated(ZeroShotSpec, {"classes": names}, file)
    if zero_shot is not None:
        file = Location.parse(zero_shot)
        return validated(ZeroShotSpec, parse_yaml(read_text(file, "--zero-shot"), file), file)
    return None


COMMANDS = (
    Command(
        "land",
        land_command,
        Panel.REGISTRY,
        (
            "$ esmerge land s3://models/registry cars --checkpoint cars.safetensors --proxy images/cars",
            "$ esmerge land registry cars --checkpoint cars.pt --proxy cars.tar --test cars-test"
            " --classes names.txt --base base.safetensors",
        ),
        '{"task": "cars", "version": "v000003", "url": "s3://models/registry/cars/v000003", "landed": true}',
    ),
    Command(
        "registry",
        registry_command,
        Panel.REGISTRY,
        ("$ esmerge registry s3://models/registry",),
        '{"cars": [{"version": "v000003", "created": "...", "sha256": "9a1b...", "bytes": 351000000, '
        '"note": "lr 1e-5"}]}',
    ),
)
