"""The sections about accuracy: the summary with its verdict, accuracy per task, and the choice of α."""

from collections.abc import Sequence

from esm_core.artifacts import Manifest
from esm_core.claims import version_label
from esm_core.model_card import accuracy_rows, method_name, methods_of, normalised
from esm_core.report.charts import Axes, Bar, Series, bars, lines
from esm_core.report.parts import Badge, Figure, Section, Table, Tile, percent, plural, points, size
from esm_core.report.verdict import (
    SAME,
    Change,
    MethodDelta,
    accuracy_of,
    changes,
    compare_accuracy,
    judged,
    tasks_of,
)

_TONES = {"base": "c0", "experts": "c4", "esm": "c1", "esm_pp_route": "c2", "esm_pp_oracle": "c3"}
_BASELINE = "c6"

_SCORES = {
    "label_free": "score without labels",
    "validation": "validation accuracy",
}

_SHORT_DIGEST = 12


def summary(manifest: Manifest, previous: Manifest | None) -> Section:
    """What this version is, and whether it is better than the one before."""
    lead, badges, tables = _verdict(manifest, previous)
    return Section("summary", "Summary", lead=lead, tiles=_tiles(manifest), badges=badges, tables=tables)


def accuracy(manifest: Manifest) -> Section:
    """Accuracy of every method that was measured: a panel of bars per task, and all of it as a table."""
    found = accuracy_of(manifest)
    if not found:
        text = (
            "No accuracy was measured: no task has labelled test images and a head (test, with head or "
            "zero_shot, in the recipe)."
        )
        return Section("accuracy", "Accuracy per task", lead=[text])
    methods = methods_of(found)
    tasks = sorted({task for own in found.values() for task in own})
    figures = []
    if "experts" in found:
        values = dict(zip(methods, normalised(found, methods), strict=True))
        title = "Normalised, mean over tasks"
        rows = [_bar(m, values[m]) for m in methods]
        limit = max(1.0, *values.values())
        figures.append(Figure(title, bars("accuracy-normalised", f"{title}, %", rows, limit)))
    for number, task in enumerate(tasks):
        own = {m: found[m][task] for m in methods if task in found[m]}
        chart = bars(f"accuracy-{number}", f"Accuracy on {task}, %", [_bar(m, v) for m, v in own.items()])
        images = (tasks_of(manifest).get(task, {}).get("test") or {}).get("count")
        figures.append(Figure(task, chart, note=f"{images} test images" if images else ""))
    lead = [
        "Share of the test images that each model gets right, in percent. Base is the model before any "
        "fine-tuning, Experts are the fine-tunes, each on its own task: what a merge tries to keep. ESM is "
        "the model in model/; ESM++ routed adds the experts, each image finding its own, and ESM++ oracle is "
        "told the task, so the difference is what routing costs. Normalised is accuracy over the expert's, "
        "averaged over tasks."
    ]
    header, table = accuracy_rows(found)
    strong = {(len(table) - 1, column): "strong" for column in range(len(header))}
    tables = [Table("Accuracy, %", header, table, tones=strong)] if table else []
    return Section("accuracy", "Accuracy per task", lead=lead, figures=figures, tables=tables)


def alpha(manifest: Manifest) -> Section:
    """How the merging coefficient was chosen: the curve that a search saw, with the point it took."""
    title, value = "Merging coefficient α", manifest.get("alpha")
    search = manifest.get("alpha_search") or {"method": "fixed", "curve": []}
    if value is None:
        return Section("alpha", title, lead=["The manifest names no α."])
    if search["method"] == "fixed" or not search["curve"]:
        return Section(
            "alpha", title, lead=[f"α is {value:g}: fixed by the recipe, so nothing was searched."]
        )
    score = _SCORES.get(search["method"], search["method"])
    curve = sorted((float(x), float(y)) for x, y in search["curve"])
    best = max(y for _, y in curve)
    lead = [
        f"α scales the merged update: 0 is the base. {plural(len(curve), 'value')} were tried, and "
        f"α = {value:.4g} has the best {score}, {best:.4f}. "
        + (
            "The score is the cosine between what the merged model and each fine-tune do to the features of "
            "the proxy images; no label was used."
            if search["method"] == "label_free"
            else "Labelled validation images were used, no test image."
        ),
        "A curve that is flat around the chosen point says that its exact value matters little; one that "
        "still rises at an end says that the search ended at its limit.",
    ]
    axes = Axes("α", f"mean {score}", from_zero=False, mark=(value, f"chosen: {value:.4g}"))
    chart = lines("alpha-curve", f"{score} over α", [Series(score, curve, "c1", dots=True)], axes)
    data = Table(
        f"{score} per α",
        ["α", score],
        [[f"{x:.4g}", f"{y:.4f}"] for x, y in curve],
        texts=0,
        tones={(n, c): "strong" for n, (x, _) in enumerate(curve) if x == value for c in (0, 1)},
    )
    return Section("alpha", title, lead=lead, figures=[Figure(f"Mean {score}", chart, data=data, open=True)])


def _bar(method: str, value: float) -> Bar:
    return Bar(method_name(method), value, percent(value), _TONES.get(method, _BASELINE))


def _tiles(manifest: Manifest) -> list[Tile]:
    found, tiles = accuracy_of(manifest), []
    for method in ("esm", "esm_pp_route"):
        if method in found and "experts" in found:
            value = normalised(found, [method])[0]
            text = "normalised: of the fine-tunes' accuracy"
            tiles.append(Tile(method_name(method), f"{percent(value)} %", text))
    tasks, files = tasks_of(manifest), manifest.get("files") or {}
    tiles.append(Tile("Fine-tunes", str(len(tasks)), "merged into one model"))
    if manifest.get("alpha") is not None:
        how = (manifest.get("alpha_search") or {}).get("method", "fixed")
        tiles.append(Tile("α", f"{manifest['alpha']:.3g}", how.replace("_", "-")))
    own = (manifest.get("metrics") or {}).get("routing_accuracy") or {}
    if own:
        tiles.append(
            Tile("Routing", f"{percent(sum(own.values()) / len(own))} %", "images sent to their own expert")
        )
    parts = {"model": "model", "experts": "experts"}
    sizes = {p: sum(f["bytes"] for path, f in files.items() if path.startswith(f"{p}/")) for p in parts}
    if sizes["model"]:
        beside = f"and {size(sizes['experts'])} of experts" if sizes["experts"] else "one open_clip model"
        tiles.append(Tile("Size", size(sizes["model"]), beside))
    return tiles


def _verdict(manifest: Manifest, previous: Manifest | None) -> tuple[list[str], list[Badge], list[Table]]:
    parent = manifest.get("parent")
    if parent is None:
        return ["This is the first version of this artifact, so there is nothing to compare it with."], [], []
    label = version_label(int(parent))
    if previous is None:
        return [f"The version before, {label}, could not be read, so there is no comparison."], [], []
    deltas = judged(compare_accuracy(previous, manifest))
    badges = [_badge(delta, label) for delta in deltas]
    found = changes(previous, manifest)
    lead = [f"Compared with {label}, the version before."]
    if not deltas:
        lead.append("Neither version has an accuracy of its own model, so the two are not compared by it.")
    shown = [delta for delta in deltas if delta.change is not None]
    tables = [_delta_table(delta, label, str(manifest.get("version", ""))) for delta in shown]
    if found:
        tables.append(_change_table(found))
    else:
        lead.append("Nothing that went into the two versions differs.")
    return lead, badges, tables


def _badge(delta: MethodDelta, label: str) -> Badge:
    name, word = method_name(delta.method), delta.word
    if word == "not compared":
        notes = sorted({task.note for task in delta.tasks if task.note})
        return Badge("plain", f"{name}: not compared", f"{'; '.join(notes)}." if notes else "")
    counts = [f"{delta.count(trend)} {trend}" for trend in ("better", "worse", "same") if delta.count(trend)]
    skipped = delta.count("not compared")
    text = f"Than {label}: {', '.join(counts)} of {plural(len(delta.tasks) - skipped, 'task')}; on average "
    text += f"{points(delta.change)} points."
    if skipped:
        text += f" {plural(skipped, 'task')} not compared."
    tones = {"better": "good", "worse": "bad", "mixed": "mixed", "same": "plain"}
    return Badge(tones[word], f"{name}: {word}", text)  # type: ignore[arg-type]


def _delta_table(delta: MethodDelta, label: str, version: str) -> Table:
    rows: list[list[str]] = []
    tones: dict[tuple[int, int], str] = {}
    for number, task in enumerate(delta.tasks):
        rows.append(
            [
                task.task,
                percent(task.before),
                percent(task.after),
                points(task.change),
                task.note or task.trend,
            ]
        )
        tone = {"better": "good", "worse": "bad"}.get(task.trend)
        if tone:
            tones |= {(number, 3): tone, (number, 4): tone}
    both = [(t.before, t.after) for t in delta.tasks if t.change is not None]
    means = [sum(value or 0.0 for value in own) / len(both) for own in zip(*both, strict=True)]
    rows.append(["mean", *map(percent, means), points(delta.change), "of those compared"])
    tones |= {(len(rows) - 1, column): "strong" for column in range(4)}
    now = version_label(int(version)) if version.isdigit() else "now"
    caption = (
        f"{method_name(delta.method)} per task, %: a task counts as the same within "
        f"{100 * SAME:g} percentage points"
    )
    return Table(caption, ["task", label, now, "difference", ""], rows, tones=tones)


def _change_table(found: Sequence[Change]) -> Table:
    rows = [[c.area, c.what, _cut(c.before), _cut(c.after)] for c in found]
    return Table("What went into it differently", ["", "what", "before", "now"], rows, texts=4)


def _cut(value: str | None) -> str:
    if value is None:
        return "none"
    digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:_SHORT_DIGEST] if digest else value
