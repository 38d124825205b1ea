"""export, convert: files for and from other software."""

from typing import Annotated

import typer

from esm_core.artifacts import open_version
from esm_core.checkpoints.convert import convert_pickled
from esm_core.errors import InputError
from esm_core.export import export_adapters, export_task
from esm_core.storage import Location
from esmerge.arguments import NameArgument, StoreOption, VersionArgument
from esmerge.output import out


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


def convert_command(
    source: Annotated[str, typer.Argument(help="A pickled PyTorch file that you trust.")],
    target: Annotated[str, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Turn a TRUSTED pickled module into safetensors. Loading a pickle can run any code in it.

    This is the only command that unpickles anything.
    """
    convert_pickled(Location.parse(source), Location.parse(target))
    out.print(f"wrote {target}")
