"""The sections about layers: energy of directions, interference of tasks, norms and β."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from esm_core.artifacts import Manifest
from esm_core.layers import LAYER_KINDS, layer_kind
from esm_core.report.analysis import Analysis, LayerAnalysis
from esm_core.report.charts import Axes, Series, heatmap, lines
from esm_core.report.parts import Figure, Section, Table, percent, plural
from esm_core.report.spectra import block_number

_NONE = "This version has no analysis.json (an earlier release of esmerge published it), so "

_KIND_TONES = dict(
    zip(LAYER_KINDS, (("c1", ""), ("c5", "2 3"), ("c2", "7 3"), ("c3", "9 3 2 3")), strict=True)
)

_WORST = 8

_ALL = "all layer types"


def energy(analysis: Analysis | None) -> Section:
    """How many directions a task's update needs: essential ones against singular ones."""
    title = "Eigenvalue energy per layer type"
    if analysis is None:
        return Section("energy", title, lead=[_NONE + "the eigenvalues are not known any more."])
    kinds = _kinds(analysis.layers.values())
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


def interference(analysis: Analysis | None) -> Section:
    """Where the tasks' kept subspaces coincide."""
    title = "Interference between tasks"
    if analysis is None:
        return Section("interference", title, lead=[_NONE + "the overlaps are not known any more."])
    kinds = {
        kind: [o.overlaps for o in own if o.overlaps is not None]
        for kind, own in _kinds(analysis.layers.values()).items()
    }
    kinds = {kind: own for kind, own in kinds.items() if own}
    means = {kind: _mean_matrix(own) for kind, own in kinds.items()}
    names = analysis.tasks
    if not means or len(names) < 2:
        return Section("interference", title, lead=["No layer was merged by essential subspaces."])
    kinds = {_ALL: [matrix for own in kinds.values() for matrix in own], **kinds}
    means = {_ALL: _mean_matrix(kinds[_ALL]), **means}
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]
    found = [matrix[i][j] for matrix in means.values() for i, j in pairs]
    chance = _chance(analysis)
    scale = (min(chance, *found), max(found))
    lead = [
        "Overlap of the subspaces that are kept of two tasks: 1 is the same subspace, 0 is orthogonal. Tasks "
        "that share directions compete for them when they are merged. Random subspaces of these sizes would "
        f"overlap by {chance:.2f}.",
        f"Colours go from {scale[0]:.2f} (pale) to {scale[1]:.2f}, the largest mean of any pair.",
    ]
    figures = [
        Figure(
            kind,
            heatmap(
                f"overlap-{number}",
                f"Mean overlap of tasks in {kind}",
                names,
                [[None if i == j else matrix[i][j] for j in range(len(names))] for i in range(len(names))],
                lambda value: f"{value:.2f}",
                scale,
            ),
            note=f"mean over {plural(len(kinds[kind]), 'layer')}",
            data=_matrix_table(f"Mean overlap in {kind}", names, matrix),
        )
        for number, (kind, matrix) in enumerate(means.items())
    ]
    return Section(
        "interference", title, large=True, lead=lead, figures=figures, tables=[_conflicts(analysis)]
    )


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
        lead.append(_NONE + "only β is known, not the norms.")
    if scales:
        figures.append(_layer_figure("norms-beta", "β, inter-layer scaling", "β", scales))
    tables = _task_norms(analysis) if analysis is not None else []
    return Section(
        "norms", title, large=True, lead=lead, figures=[f for f in figures if f is not None], tables=tables
    )


def _kinds(layers: Iterable[LayerAnalysis]) -> dict[str, list[LayerAnalysis]]:
    """Layers by kind, in the order of a transformer's block; matrices of no kind are left out."""
    found: dict[str, list[LayerAnalysis]] = {kind: [] for kind in LAYER_KINDS}
    for layer in layers:
        if layer.kind in found:
            found[layer.kind].append(layer)
    return {kind: sorted(own, key=lambda layer: layer.block or 0) for kind, own in found.items() if own}


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


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    count = len(matrices[0])
    return [[fmean(m[i][j] for m in matrices) for j in range(count)] for i in range(count)]


def _chance(analysis: Analysis) -> float:
    """What random subspaces of the kept sizes would overlap by, a mean: the larger rank over ``d_out``."""
    return fmean(max(o.ranks) / o.shape[0] for o in analysis.layers.values() if o.ranks)


def _conflicts(analysis: Analysis) -> Table:
    """The pairs with the largest mean overlap over all layers, and where each is largest."""
    found = []
    for j, second in enumerate(analysis.tasks):
        for i, first in enumerate(analysis.tasks[:j]):
            own = {w: o.overlaps[i][j] for w, o in analysis.layers.items() if o.overlaps is not None}
            worst = max(own, key=lambda weight: own[weight])
            found.append((fmean(own.values()), first, second, _place(worst), own[worst]))
    found.sort(key=lambda row: (-row[0], row[1:3]))
    rows = [[a, b, f"{mean:.3f}", f"{most:.3f}", place] for mean, a, b, place, most in found[:_WORST]]
    caption = f"The pairs that conflict most, {len(rows)} of {len(found)}"
    return Table(caption, ["task", "and", "mean overlap", "largest", "in layer"], rows, texts=2)


def _matrix_table(caption: str, names: Sequence[str], matrix: Sequence[Sequence[float]]) -> Table:
    rows = [[name, *(f"{value:.3f}" for value in own)] for name, own in zip(names, matrix, strict=True)]
    return Table(caption, ["", *names], rows)


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
        for kind, own in _kinds(analysis.layers.values()).items()
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


def _place(weight: str) -> str:
    block, kind = block_number(weight), layer_kind(weight)
    return f"block {block}, {kind}" if block is not None and kind is not None else weight
