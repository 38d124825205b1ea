"""``analysis.json``: what a report shows of the layers, kept in the artifact when the merge is collected."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from esm_core.architecture import tower_shapes
from esm_core.arrays import read_array
from esm_core.artifacts import Version, read_verified
from esm_core.errors import IntegrityError
from esm_core.layers import LAYER_KINDS, layer_kind
from esm_core.plan import Plan
from esm_core.report import ANALYSIS_NAME
from esm_core.report.curves import DIGITS, curve_ranks, energy_shares
from esm_core.report.spectra import block_number, read_spectra
from esm_core.stages import canonical_json, check_format, read_marker
from esm_core.static import static_facts

_FORMAT = 1
_READERS = 8

NO_ANALYSIS = "This version has no analysis.json (an earlier release of esmerge published it), so "

Curves = list[list[float] | None]


class LayerAnalysis(BaseModel):
    """One weight that was merged layer by layer. Lists over tasks have the order of ``Analysis.tasks``.

    Attributes
    ----------
    kind : str, optional
        Layer kind; None for another matrix.
    block : int, optional
        Number of the transformer block.
    rule : str
        ``essential`` or ``tsv_m``.
    shape : (int, int)
        ``[d_out, d_in]``.
    norm : float
        ``‖M‖_F`` of the merged update, before β and α.
    scale : float
        β.
    ranks : list of int, optional
        Directions kept per task; of essential weights, like the rest.
    task_norms : list of float, optional
        ``‖Eᵀ dW‖_F`` per task, over all its essential directions. None for merges of earlier releases.
    overlaps : list of list of float, optional
        ``[T, T]``: 1 where the kept subspaces of two tasks are the same, 0 where they are orthogonal.
    curve_ranks : list of int
        Numbers of directions that the curves are given at.
    essential : list, optional
        Per task, the share of the activation shift's energy in its first directions; None without energy.
    singular : list, optional
        The same of the update's squared singular values; None where the layer was not sampled.
    """

    model_config = ConfigDict(frozen=True)

    kind: str | None
    block: int | None
    rule: str
    shape: tuple[int, int]
    norm: float
    scale: float
    ranks: list[int] | None = None
    task_norms: list[float] | None = None
    overlaps: list[list[float]] | None = None
    curve_ranks: list[int]
    essential: Curves | None = None
    singular: Curves | None = None


class Analysis(BaseModel):
    """What a report needs beyond the manifest. ``layers`` is by weight."""

    model_config = ConfigDict(frozen=True)

    format: int = _FORMAT
    tasks: list[str]
    layers: dict[str, LayerAnalysis]

    def content(self) -> bytes:
        """The bytes of ``analysis.json``: the same for the same values."""
        return canonical_json(self.model_dump(mode="json"))


def analyse(plan: Plan) -> Analysis:
    """Gather what the merge store holds of every layer, and the spectra of the sampled ones.

    Raises
    ------
    IntegrityError
        Something of it is damaged in the store.
    InputError
        A checkpoint changed since it was inspected, and its spectra were not measured yet.
    """
    names, shapes = [task.name for task in plan.tasks], tower_shapes(plan.architecture)
    scales = static_facts(plan)["layer_scales"]
    spectra = {name: read_spectra(plan, name) for name in names}

    def layer(weight: str) -> LayerAnalysis:
        d_out, d_in = shapes[weight]
        ranks = curve_ranks(min(d_out, d_in))
        own = [spectra[name].get(weight) for name in names]
        return LayerAnalysis(
            kind=layer_kind(weight),
            block=block_number(weight),
            rule=plan.rules[weight],
            shape=(d_out, d_in),
            scale=_rounded(scales[weight]),
            curve_ranks=ranks,
            singular=own if any(own) else None,
            **_merged(plan, weight, ranks),
        )

    with ThreadPoolExecutor(_READERS) as readers:
        layers = dict(zip(plan.decomposed, readers.map(layer, plan.decomposed), strict=True))
    return Analysis(tasks=names, layers=layers)


def read_analysis(version: Version) -> Analysis | None:
    """The analysis of a published version; None where an earlier release published it.

    Raises
    ------
    IntegrityError
        The file is damaged, or of a newer format.
    """
    if ANALYSIS_NAME not in version.manifest["files"]:
        return None
    location = version.folder / ANALYSIS_NAME
    try:
        content = json.loads(bytes(read_verified(version, ANALYSIS_NAME)))
        check_format(location, int(content["format"]))
        return Analysis.model_validate(content)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{location}: is not an analysis that this esmerge reads ({error}).") from error


def by_kind(layers: Iterable[LayerAnalysis]) -> dict[str, list[LayerAnalysis]]:
    """Layers by kind, in the order of a transformer's block; matrices of no kind are left out."""
    found: dict[str, list[LayerAnalysis]] = {kind: [] for kind in LAYER_KINDS}
    for layer in layers:
        if layer.kind in found:
            found[layer.kind].append(layer)
    return {kind: sorted(own, key=lambda layer: layer.block or 0) for kind, own in found.items() if own}


def _merged(plan: Plan, weight: str, ranks: list[int]) -> dict[str, Any]:
    """What is in the merge store of one weight."""
    folder = plan.layer_folder(weight)
    facts = read_marker(folder)
    found: dict[str, Any] = {"norm": _rounded(facts["norm"])}
    if plan.rules[weight] != "essential":
        return found
    spectra = torch.from_numpy(read_array(folder, "eigenvalues"))
    norms = facts.get("task_norms")
    return found | {
        "ranks": facts["ranks"],
        "task_norms": None if norms is None else [_rounded(norm) for norm in norms],
        "overlaps": read_array(folder, "overlaps").round(DIGITS).tolist(),
        "essential": [energy_shares(own, ranks) for own in spectra],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
