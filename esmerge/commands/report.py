"""report, compare: what a person looks at before a version is used."""

from typing import Annotated

import typer

from esmerge.arguments import JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.command import Command, Panel
from esmerge.output import out, print_json


def report_command(
    store: Annotated[str, typer.Argument(help="Store: a path, file:// or s3:// URL.")],
    name: NameArgument,
    target: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")],
    version: VersionArgument = "latest",
    as_json: JsonOption = False,
) -> None:
    """Write the report of a version: one HTML file that needs nothing else.

    It is the published one, verified; where an earlier esmerge published none, one made of the manifest.
    """
    from esm_core.artifacts import open_version
    from esm_core.report.page import report_of
    from esm_core.storage import Location

    root, file = Location.parse(store), Location.parse(target)
    found = open_version(root, name, version)
    content = report_of(root, found)
    file.write_bytes(content)
    if as_json:
        print_json({"version": found.label, "url": file.url, "bytes": len(content)})
        return
    out.print(f"wrote the report of {name} {found.label} to {file}", markup=False)


def compare_command(
    name: NameArgument,
    before: Annotated[str, typer.Argument(metavar="V1", help="A version: number, label or channel.")],
    after: Annotated[str, typer.Argument(metavar="V2", help="Another one, mostly newer.")],
    store: StoreOption,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: accuracy per task, and what went into them differently."""
    from esm_core.artifacts import open_version
    from esm_core.storage import Location
    from esmerge.comparison import print_comparison

    root = Location.parse(store)
    print_comparison(open_version(root, name, before), open_version(root, name, after), as_json)


COMMANDS = (
    Command(
        "report",
        report_command,
        Panel.VERSIONS,
        (
            "$ esmerge report store pets -o pets.html  # the newest",
            "$ esmerge report s3://models/esmerge pets stable -o pets.html",
        ),
        '{"version": "v000012", "url": "file:///home/ann/pets.html", "bytes": 180000}',
    ),
    Command(
        "compare",
        compare_command,
        Panel.VERSIONS,
        (
            "$ esmerge compare pets 11 12 --store store",
            "$ esmerge compare pets stable latest --store store --json",
        ),
        '{"before": "v000011", "after": "v000012", "accuracy": {"esm": {"change": 0.01, "verdict": "better", '
        '"tasks": {}}}, "changes": []}',
    ),
)
