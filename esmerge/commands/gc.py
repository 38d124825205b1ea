"""gc: what of a store nothing needs, and its deletion."""

import sys
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from esm_core.errors import InputError
from esmerge.arguments import JsonOption, StoreOption
from esmerge.command import Command, Panel
from esmerge.output import out, print_json, print_table

if TYPE_CHECKING:
    from esm_core.gc.report import Kept, Report


def gc_command(
    store: StoreOption,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep of every artifact.")] = 5,
    min_age: Annotated[str, typer.Option(help="Keep what is younger: 7d, 12h, 30m, 0s.")] = "7d",
    really: Annotated[bool, typer.Option("--delete", help="Delete it. Without, nothing is changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what of a store nothing needs any more, and why; with --delete, delete it.

    Kept are the newest versions, what channels point to and would roll back to, what those were made from,
    and what a running merge needs. Merges wait while gc deletes. Exit code 1 where another gc is running.
    """
    from esm_core.gc.collect import collect
    from esm_core.gc.delete import delete
    from esm_core.gc.report import Policy, parse_age
    from esm_core.storage import Location

    root, policy = Location.parse(store), Policy(keep, parse_age(min_age))
    if not root.is_dir():
        raise InputError(f"store: {root}: no such folder, so there is nothing to collect.")
    report = (delete if really else collect)(root, policy, datetime.now(UTC))
    if as_json:
        print_json({"deleted": really, "bytes": sum(g.bytes for g in report.garbage), **asdict(report)})
    else:
        _print(report, really)
    if report.failed:
        said = "\n  ".join(report.failed)
        sys.stderr.write(f"esmerge: could not delete everything; run it again:\n  {said}\n")
        raise typer.Exit(1)


def _print(report: "Report", deleted: bool) -> None:
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
    print_table("Kept", "", ["what", "MB", "because"], _kept_rows(report.kept))
    rows = [[item.path, _mb(item.bytes), item.reason] for item in report.garbage]
    print_table("Deleted" if deleted else "Would be deleted", "", ["what", "MB", "because"], rows)
    count, size = len(report.garbage), _mb(sum(item.bytes for item in report.garbage))
    if deleted:
        out.print(f"deleted {count} files and folders, {size} MB")
    elif count:
        out.print(f"{count} files and folders, {size} MB, would be deleted: run again with --delete to do it")
    else:
        out.print("nothing to delete")


def _kept_rows(kept: "list[Kept]") -> list[list[str]]:
    """Versions one by one; of the rest, how many of each kind and why."""
    rows, groups = [], defaultdict[tuple[str, str], list[int]](list)
    for item in kept:
        if item.path.startswith("artifacts/"):
            rows.append([item.path, _mb(item.bytes), item.reason])
        else:
            groups[item.path.partition("/")[0], item.reason].append(item.bytes)
    return rows + [[f"{len(s)} of {kind}", _mb(sum(s)), why] for (kind, why), s in sorted(groups.items())]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


_ITEM = '"path": "shifts/5f0c...", "bytes": 85000000, "reason": "no kept version was made from it"'

COMMANDS = (
    Command(
        "gc",
        gc_command,
        Panel.OPERATIONS,
        (
            "$ esmerge gc --store store  # what would go, and why; changes nothing",
            "$ esmerge gc --store store --keep 3 --min-age 12h --delete",
        ),
        f'{{"deleted": false, "bytes": 85000000, "kept": [], "garbage": [{{{_ITEM}}}], '
        '"retired": {"pets": 7}, "notes": [], "failed": []}',
    ),
)
