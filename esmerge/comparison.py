"""Two versions side by side, as text and as JSON."""

from dataclasses import asdict
from typing import Any

from esm_core.artifacts import Version
from esm_core.model_card import method_name
from esm_core.report.parts import percent, points
from esm_core.report.verdict import Change, MethodDelta, changes, compare_accuracy, judged
from esmerge.output import out, print_json, print_table


def print_comparison(old: Version, new: Version, as_json: bool) -> None:
    """Accuracy per task of two versions, and what went into them differently."""
    deltas, found = compare_accuracy(old.manifest, new.manifest), changes(old.manifest, new.manifest)
    if as_json:
        print_json(_facts(old, new, deltas, found))
        return
    out.print(f"[bold]{new.manifest['name']} {old.label} → {new.label}[/bold]")
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
