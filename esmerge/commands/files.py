"""export, convert: files for and from other software."""

from typing import Annotated

import typer

from esm_core.errors import InputError
from esmerge.arguments import JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.command import Command, Panel
from esmerge.output import out, print_json


def export_command(
    name: NameArgument,
    store: StoreOption,
    target: Annotated[str, typer.Option("--out", help="Folder to write to: absent or empty.")],
    version: VersionArgument = "latest",
    as_peft: Annotated[bool, typer.Option("--peft", help="One PEFT adapter per task.")] = False,
    task: Annotated[str | None, typer.Option(help="One task's expert as a full open_clip model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the experts of a version for other software: PEFT adapters, or one dense open_clip model."""
    if as_peft == (task is not None):
        raise InputError("export writes one of two things: give --peft, or --task with the name of a task.")
    from esm_core.artifacts import open_version
    from esm_core.export import export_adapters, export_task
    from esm_core.storage import Location

    found, folder = open_version(Location.parse(store), name, version), Location.parse(target)
    if task is not None:
        export_task(found, task, folder)
        if as_json:
            print_json({"version": found.label, "tasks": {task: {"url": folder.url}}})
        else:
            out.print(f"wrote the expert of {task} of {name} {found.label} to {folder}")
        return
    adapters = export_adapters(found, folder)
    if as_json:
        counts = {
            made: {
                "url": (folder / made).url,
                "low_rank": len(adapter.low_rank),
                "norms": len(adapter.modules),
                "whole": len(adapter.whole),
            }
            for made, adapter in adapters.items()
        }
        print_json({"version": found.label, "tasks": counts})
        return
    for made, adapter in adapters.items():
        out.print(
            f"wrote {folder / made}: {len(adapter.low_rank)} matrices in low rank, {len(adapter.modules)} "
            f"parameters of norms, {len(adapter.whole)} parameters whole; left out: nothing"
        )
    out.print("Put one adapter on a model, not several: see the README.md of each.")


def convert_command(
    source: Annotated[str, typer.Argument(help="A pickled PyTorch file that you trust.")],
    target: Annotated[str, typer.Argument(help="The safetensors file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a TRUSTED pickled module into safetensors. Loading a pickle can run any code in it.

    This is the only command that unpickles anything.
    """
    from esm_core.checkpoints.convert import convert_pickled
    from esm_core.storage import Location

    made = Location.parse(target)
    convert_pickled(Location.parse(source), made)
    if as_json:
        print_json({"source": Location.parse(source).url, "target": made.url, "bytes": made.size()})
    else:
        out.print(f"wrote {target}")


COMMANDS = (
    Command(
        "export",
        export_command,
        Panel.VERSIONS,
        (
            "$ esmerge export pets --store store --out adapters --peft  # every task",
            "$ esmerge export pets stable --store store --out cars --task cars  # one, dense",
        ),
        '{"version": "v000012", "tasks": {"cars": '
        '{"url": "file:///home/ann/adapters/cars", "low_rank": 48, "norms": 52, "whole": 3}}}',
    ),
    Command(
        "convert",
        convert_command,
        Panel.OPERATIONS,
        ("$ esmerge convert cars.pt cars.safetensors",),
        '{"source": "file:///home/ann/cars.pt", "target": "file:///home/ann/cars.safetensors", '
        '"bytes": 351000000}',
    ),
)
