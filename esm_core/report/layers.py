"""The sections about layers: energy of directions, norms and β."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from esm_core.artifacts import Manifest
from esm_core.layers import LAYER_KINDS, layer_kind
from esm_core.report.analysis import NO_ANALYSIS, Analysis, LayerAnalysis, by_kind
from esm_core.report.charts import Axes, Series, lines
from esm_core.report.parts import Figure, Section, Table, percent, plural
from esm_core.report.spectra import block_number

_KIND_TONES = dict(
    zip(LAYER_KINDS, (("c1", ""), ("c5", "2 3"), ("c2", "7 3"), ("c3", "9 3 2 3")), strict=True)
)


def energy(analysis: Analysis | None) -> Section:
    """How many directions a task's update needs: essential ones against singular ones."""
    title = "Eigenvalue energy per layer type"
    if analysis is None:
        return Section("energy", title, lead=[NO_ANALYSIS + "the eigenvalues are not known any more."])
    kinds = by_kind(analysis.layers.values())
    figures = [_energy_figure(kind, own, len(analysis.tasks)) for kind, own in kinds.items()]
    blocks = sorted({o.block for own in kinds.values() for o in own if o.singular and o.block is not None})
    lead = [
        "Which share of a task's update lies in its strongest directions; the earlier a curve is high, the "
        "less is lost when a merge keeps a few directions per task. Essential directions (ESD) are those of "
        "what the update does to the layer's outputs on the proxy images; singular ones (SVD) are those of "
        "the update itself. Lines are means over layers and tasks, the band is the range of the tasks.",
        f"SVD was taken in a sample of layers: block{'s' if len(blocks) != 1 else ''} "
        f"{', '.join(map(str, blocks))}. ESD is of all layers.",
    ]
    rows = [row for kind, own in kinds.items() for row in _energy_rows(kind, own)]
    header = ["layer type", "directions", "share kept", "kept of all", "for 90 %", "for 99 %"]
    tables = [Table("Directions and the energy in them, means over layers and tasks", header, rows, texts=2)]
    per_task = _energy_per_task(analysis, kinds)
    return Section("energy", title, large=True, lead=lead, figures=figures, tables=[*tables, *per_task])


def norms(manifest: Manifest, analysis: Analysis | None) -> Section:
    """How large the merged update of every layer is, and what β makes of it."""
    title, scales = "Norms and β per layer", manifest.get("layer_scales") or {}
    lead = [
        "β scales a layer's merged update against the other layers of its type: above 1 it is strengthened, "
        "below 1 weakened. Both are before α."
    ]
    if not scales and analysis is None:
        return Section("norms", title, lead=["The manifest holds no layer scales."])
    figures = []
    if analysis is not None:
        norm = {weight: layer.norm for weight, layer in analysis.layers.items()}
        figures.append(_layer_figure("norms-norm", "Norm of the merged update", "‖M‖", norm))
    else:
        lead.append(NO_ANALYSIS + "only β is known, not the norms.")
    if scales:
        figures.append(_layer_figure("norms-beta", "β, inter-layer scaling", "β", scales))
    tables = _task_norms(analysis) if analysis is not None else []
    return Section(
        "norms", title, large=True, lead=lead, figures=[f for f in figures if f is not None], tables=tables
    )


def _energy_figure(kind: str, own: Sequence[LayerAnalysis], count: int) -> Figure:
    ranks, series, columns = own[0].curve_ranks, [], []
    for name, tone, dash, per_task in (
        (
            "ESD, essential directions",
            "c1",
            "",
            [_task_curve(own, task, "essential") for task in range(count)],
        ),
        (
            "SVD, singular directions",
            "c2",
            "6 4",
            [_task_curve(own, task, "singular") for task in range(count)],
        ),
    ):
        curves = [curve for curve in per_task if curve is not None]
        if not curves:
            continue
        mean = [100 * fmean(values) for values in zip(*curves, strict=True)]
        band = [
            (float(rank), 100 * min(values), 100 * max(values))
            for rank, values in zip(ranks, zip(*curves, strict=True), strict=True)
        ]
        points = list(zip(map(float, ranks), mean, strict=True))
        series.append(Series(name, points, tone, dash, band))
        columns.append((name.partition(",")[0], mean))
    kept = [rank for layer in own for rank in layer.ranks or ()]
    mark = (fmean(kept), f"kept: {max(kept)}") if kept else None
    axes = Axes("directions", "energy, %", log_x=True, mark=mark, top=100.0)
    rows = [[str(rank), *(f"{mean[at]:.1f}" for _, mean in columns)] for at, rank in enumerate(ranks)]
    header = ["directions", *(f"{name} %" for name, _ in columns)]
    key = f"energy-{kind.replace('.', '-')}"
    return Figure(
        kind,
        lines(key, f"Share of energy in the first directions, {kind}", series, axes),
        note=f"{plural(len(own), 'layer')} of {own[0].shape[0]} × {own[0].shape[1]}"
        + (
            ""
            if any(layer.essential for layer in own)
            else "; merged by TSV-M, which takes singular directions"
        ),
        data=Table(f"Energy in {kind}, %", header, rows, texts=0),
    )


def _task_curve(own: Sequence[LayerAnalysis], task: int, which: str) -> list[float] | None:
    """A task's mean curve over the layers that have one."""
    curves = [
        curve for layer in own if (given := getattr(layer, which)) and (curve := given[task]) is not None
    ]
    return [fmean(values) for values in zip(*curves, strict=True)] if curves else None


def _mean_curve(own: Sequence[LayerAnalysis], which: str) -> list[float] | None:
    curves = [c for layer in own for c in getattr(layer, which) or () if c is not None]
    return [fmean(values) for values in zip(*curves, strict=True)] if curves else None


def _energy_rows(kind: str, own: Sequence[LayerAnalysis]) -> list[list[str]]:
    ranks, rows = own[0].curve_ranks, []
    kept = [rank for layer in own for rank in layer.ranks or ()]
    for name, which in (("ESD", "essential"), ("SVD", "singular")):
        curve = _mean_curve(own, which)
        if curve is None:
            continue
        share = f"{percent(share_at(ranks, curve, fmean(kept)))} %" if kept else "–"
        of_all = f"{fmean(kept):.0f} of {min(own[0].shape)}" if kept else "–"
        needed = [str(directions_for(ranks, curve, part)) for part in (0.9, 0.99)]
        rows.append([kind, name, share, of_all, *needed])
    return rows


def _energy_per_task(analysis: Analysis, kinds: Mapping[str, Sequence[LayerAnalysis]]) -> list[Table]:
    shown = {kind: own for kind, own in kinds.items() if any(layer.essential for layer in own)}
    rows = []
    for index, task in enumerate(analysis.tasks):
        row = [task]
        for own in shown.values():
            curve = _task_curve(own, index, "essential")
            kept = fmean(layer.ranks[index] for layer in own if layer.ranks)
            row.append("–" if curve is None else percent(share_at(own[0].curve_ranks, curve, kept)))
        rows.append(row)
    caption = "Share of a task's ESD energy that its kept directions hold, %"
    return [Table(caption, ["task", *shown], rows)] if shown else []


def share_at(ranks: Sequence[int], curve: Sequence[float], rank: float) -> float:
    """A curve's share at any number of directions, between its points by straight lines."""
    if rank <= ranks[0]:
        return curve[0]
    for (low, before), (high, after) in zip(
        zip(ranks, curve, strict=True), zip(ranks[1:], curve[1:], strict=True), strict=False
    ):
        if rank <= high:
            return before + (after - before) * (rank - low) / (high - low)
    return curve[-1]


def directions_for(ranks: Sequence[int], curve: Sequence[float], share: float) -> int:
    """The first number of directions that a curve is kept at with at least this share."""
    return next((rank for rank, value in zip(ranks, curve, strict=True) if value >= share - 1e-9), ranks[-1])


def _layer_figure(key: str, title: str, label: str, values: Mapping[str, float]) -> Figure | None:
    by_kind: dict[str, dict[int, float]] = defaultdict(dict)
    for weight, value in values.items():
        kind, block = layer_kind(weight), block_number(weight)
        if kind is not None and block is not None:
            by_kind[kind][block] = value
    if not by_kind:
        return None
    kinds = [kind for kind in LAYER_KINDS if kind in by_kind]
    blocks = sorted({block for own in by_kind.values() for block in own})
    series = [
        Series(kind, [(float(b), v) for b, v in sorted(by_kind[kind].items())], *_KIND_TONES[kind], dots=True)
        for kind in kinds
    ]
    rows = [
        [str(b), *(f"{by_kind[kind][b]:.4g}" if b in by_kind[kind] else "–" for kind in kinds)]
        for b in blocks
    ]
    data = Table(f"{title} per layer", ["block", *kinds], rows, texts=0)
    axes = Axes("block", label, whole_x=True)
    return Figure(title, lines(key, f"{title} per layer", series, axes), data=data)


def _task_norms(analysis: Analysis) -> list[Table]:
    kinds = {
        kind: [layer.task_norms for layer in own if layer.task_norms is not None]
        for kind, own in by_kind(analysis.layers.values()).items()
    }
    kinds = {kind: own for kind, own in kinds.items() if own}
    if not kinds:
        return []
    rows = [
        [task, *(f"{fmean(norm[index] for norm in own):.4g}" for own in kinds.values())]
        for index, task in enumerate(analysis.tasks)
    ]
    return [
        Table(
            "Norm of each task's own update in its essential directions, mean over layers",
            ["task", *kinds],
            rows,
        )
    ]
