"""The section about interference: where the subspaces that are kept of the tasks coincide."""

from collections.abc import Sequence
from statistics import fmean

from esm_core.layers import layer_kind
from esm_core.report.analysis import NO_ANALYSIS, Analysis, by_kind
from esm_core.report.charts import heatmap
from esm_core.report.parts import Figure, Section, Table, plural
from esm_core.report.spectra import block_number

_WORST = 8

_ALL = "all layer types"


def interference(analysis: Analysis | None) -> Section:
    """Where the tasks' kept subspaces coincide."""
    title = "Interference between tasks"
    if analysis is None:
        return Section("interference", title, lead=[NO_ANALYSIS + "the overlaps are not known any more."])
    kinds = {
        kind: [o.overlaps for o in own if o.overlaps is not None]
        for kind, own in by_kind(analysis.layers.values()).items()
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
        f"Colours go from {scale[0]:.2f} (faint) to {scale[1]:.2f}, the largest mean of any pair.",
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


def _place(weight: str) -> str:
    block, kind = block_number(weight), layer_kind(weight)
    return f"block {block}, {kind}" if block is not None and kind is not None else weight
