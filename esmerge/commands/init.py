"""init: a recipe from a folder of checkpoints."""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esm_core.errors import InputError
from esmerge.arguments import JsonOption
from esmerge.command import Command, Panel
from esmerge.output import out, print_json

if TYPE_CHECKING:
    from esm_core.draft import Draft, TaskDraft
    from esm_core.storage import Location


def init_command(
    folder: Annotated[str, typer.Argument(help="Folder with the checkpoints: a path, file:// or s3:// URL.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The recipe to write.")] = "recipe.yaml",
    base: Annotated[
        str | None, typer.Option(help="The checkpoint that every fine-tune started from.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="An open_clip model name, or an open_clip_config.json.")
    ] = None,
    store: Annotated[
        str, typer.Option(help="Store for the recipe: a path relative to it, or a URL.")
    ] = "store",
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a recipe for a folder of checkpoints: what belongs together is found by names and shapes.

    Checkpoints are .safetensors, .pt, .pth, .bin or .ckpt files, or folders written by open_clip or
    transformers. The base is the one called base, pretrained or zeroshot, unless --base says it. Images and
    heads are found by the task's name: images/cars/proxy, cars/test, cars.tar, heads/cars.safetensors,
    cars-head.safetensors. What is missing gets a TODO in the recipe. Nothing is unpickled; only the recipe is
    written.
    """
    from esm_core.draft import draft, recipe_text
    from esm_core.storage import Location

    target = Location.parse(output)
    if not force and target.is_file():
        raise InputError(f"{target}: is there already. Give another path with -o, or --force to replace it.")
    start = None if base is None else Location.parse(base.removeprefix("local-dir:"))
    found = draft(Location.parse(folder), start, architecture)
    data = recipe_text(found, _name(target), store, target).encode()
    if force:
        target.write_bytes(data)
    elif not target.create(data):
        raise InputError(f"{target}: was written by somebody else meanwhile. Give another path with -o.")
    command = f"esmerge plan {shlex.quote(output)}"
    if as_json:
        print_json(_facts(found, target, command))
    else:
        _print(found, output, command)


def _name(target: "Location") -> str:
    """A name for the artifact: the folder's that the recipe is in."""
    from esm_core.names import check_name

    try:
        return check_name(target.parent.name)
    except ValueError:
        return "merged"


def _facts(found: "Draft", target: "Location", command: str) -> dict[str, Any]:
    return {
        "recipe": target.url,
        "base": None if found.base is None else found.base.location.url,
        "architecture": found.architecture.name,
        "architecture_options": list(found.architecture.options),
        "tasks": {task.name: _task_facts(task) for task in found.tasks},
        "samples": found.samples,
        "todo": found.todo,
        "left_out": found.skipped,
        "next": command,
    }


def _task_facts(task: "TaskDraft") -> dict[str, Any]:
    places = {kind: getattr(task, kind) for kind in ("proxy", "validation", "test", "head")}
    return {
        "checkpoint": task.tower.location.url,
        **{kind: None if place is None else place.location.url for kind, place in places.items()},
        "notes": list(task.notes),
    }


def _print(found: "Draft", output: str, command: str) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False)

    say(f"wrote {output}")
    say(f"  base          {found.base.path if found.base else 'not found'}")
    say(f"  architecture  {found.architecture.name or 'not known'} ({found.architecture.why})")
    for task in found.tasks:
        kinds = ("proxy", "validation", "test", "head")
        held = [kind for kind in kinds if getattr(task, kind) is not None]
        say(f"  task          {task.name}: {task.tower.path!r} with {', '.join(held) or 'nothing else'}")
        for note in task.notes:
            say(f"                left out: {note!r}")
    for path, reason in sorted(found.skipped.items()):
        say(f"  left out      {path!r}: {reason}")
    for item in found.todo:
        say(f"  TODO          {item}")
    say(f"Next: {'fill in what is marked TODO, then ' if found.todo else ''}{command}")


_TASK = (
    '"checkpoint": "file:///home/ann/cars.pt", "proxy": "file:///home/ann/cars/proxy", "validation": null, '
    '"test": null, "head": null, "notes": []'
)

COMMANDS = (
    Command(
        "init",
        init_command,
        Panel.MERGE,
        (
            "$ esmerge init checkpoints  # writes recipe.yaml",
            "$ esmerge init runs -o pets.yaml --base openai.pt --architecture ViT-B-32-quickgelu",
            "$ esmerge init s3://models/pets --store s3://models/esmerge --json",
        ),
        '{"recipe": "file:///home/ann/recipe.yaml", "base": "file:///home/ann/base.safetensors", '
        '"architecture": null, "architecture_options": ["ViT-B-32", "ViT-B-32-quickgelu"], '
        f'"tasks": {{"cars": {{{_TASK}}}}}, "samples": 32, "todo": ["base.architecture: ..."], '
        '"left_out": {"old.pt": "..."}, "next": "esmerge plan recipe.yaml"}',
    ),
)
