"""report, compare: what a person looks at before a version is used."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from esm_core.artifacts import Version, open_version
from esm_core.model_card import method_name
from esm_core.report.page import report_of
from esm_core.report.parts import percent, points
from esm_core.report.verdict import Change, MethodDelta, changes, compare_accuracy, judged
from esm_core.storage import Location
from esmerge.arguments import JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.output import out, print_json, print_table


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
    root = Location.parse(store)
    old, new = open_version(root, name, before), open_version(root, name, after)
    deltas, found = compare_accuracy(old.manifest, new.manifest), changes(old.manifest, new.manifest)
    if as_json:
        print_json(_facts(old, new, deltas, found))
        return
    out.print(f"[bold]{name} {old.label} → {new.label}[/bold]")
    for delta in judged(deltas):
        if delta.change is None:
            notes = sorted({task.note for task in delta.tasks})
            out.print(f"{method_name(delta.method)} is not compared: {', '.join(notes)}")
        else:
            _print_delta(delta, old.label, new.label)
    rows = [
        [method_name(d.method), *_means(d), points(d.change), d.word] for d in deltas if d.change is not None
    ]
    title, caption = "Mean accuracy, %", "over the tasks that are compared"
    print_table(title, caption, ["model", old.label, new.label, "difference", ""], rows)
    if not rows:
        out.print("no accuracy that can be compared: no test images, or other ones")
    _print_changes(found, old.label, new.label)


def _print_delta(delta: MethodDelta, old: str, new: str) -> None:
    rows = [
        [task.task, percent(task.before), percent(task.after), points(task.change), task.note or task.trend]
        for task in delta.tasks
    ]
    before, after = _means(delta)
    rows.append(["mean", before, after, points(delta.change), delta.word])
    title = f"{method_name(delta.method)} per task, %"
    print_table(title, "same: within 0.5 percentage points", ["task", old, new, "difference", ""], rows)


def _means(delta: MethodDelta) -> tuple[str, str]:
    """Of the tasks that are compared, before and after."""
    both = [(t.before, t.after) for t in delta.tasks if t.change is not None]
    if not both:
        return "–", "–"
    old, new = (sum(value or 0.0 for value in own) / len(both) for own in zip(*both, strict=True))
    return percent(old), percent(new)


def _print_changes(found: list[Change], old: str, new: str) -> None:
    if not found:
        out.print("\nNothing that went into the two versions differs.")
        return
    rows = [[c.area, c.what, _short(c.before), _short(c.after)] for c in found]
    print_table("What went into them differently", "", ["", "what", old, new], rows)


def _short(value: str | None) -> str:
    text = "none" if value is None else value
    return text if len(text) <= 40 else f"{text[:12]}…"


def _facts(old: Version, new: Version, deltas: list[MethodDelta], found: list[Change]) -> dict[str, Any]:
    """``accuracy[method]``: mean change, verdict and ``tasks[task]``; ``changes`` as a list."""
    accuracy = {
        delta.method: {
            "change": delta.change,
            "verdict": delta.word,
            "tasks": {
                t.task: {
                    "before": t.before,
                    "after": t.after,
                    "change": t.change,
                    "verdict": t.note or t.trend,
                }
                for t in delta.tasks
            },
        }
        for delta in deltas
    }
    versions = {"before": old.label, "after": new.label}
    return {**versions, "accuracy": accuracy, "changes": [asdict(change) for change in found]}
