"""Settings a merge could choose for itself, and what unlabelled proxies say of each."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.quality_parts.lines import Line, label_free
from benchmarks.quality_parts.problem import Problem, Split, State
from benchmarks.quality_parts.proxies import Proxies
from benchmarks.quality_parts.static import PUBLISHED, at
from benchmarks.quality_parts.variant import Figures
from esm_core.esd import Decomposition, decompose_update
from esm_core.experts.names import linear_map
from esm_core.heads import predictions
from esm_core.layers import CONV, PROJECTION, layer_kind
from esm_core.merge import merge_other, merges_essentially
from esm_core.methods.esm import fuse, layer_scales
from esm_core.settings import MergeSettings

SPLITS: tuple[Split, Split] = ("test", "validation")

SCORED = Proxies(128)
"""What the agreement with the fine-tunes is taken on: as many as a router is fitted on."""


@dataclass(frozen=True)
class Candidate:
    """Essential Subspace Merging with other settings than a recipe can say; α without labels.

    One column. Its facts hold ``displacement``, what the search of α maximises, and ``agreement``: the share
    of unlabelled proxies that the merged model classifies as their own fine-tune does, a mean over tasks.

    Attributes
    ----------
    split : str
        How directions are shared out: ``even``, ``d_out / T`` each; ``energy``: of all tasks' directions
        the ``d_out`` with the largest share of their own task's energy.
    essential : tuple of str
        Layer kinds, or weights, that are merged in essential subspaces and scaled by α beside the published
        ones.
    """

    name: str
    settings: MergeSettings = PUBLISHED
    split: Literal["even", "energy"] = "even"
    essential: tuple[str, ...] = ()

    def measure(self, problem: Problem) -> dict[str, Figures]:
        line = self._line(problem)
        chosen = label_free(problem, line)
        found = at(problem, line, chosen)
        displacement = max(score for _, score in chosen.curve)
        tower = problem.tower(line.at(chosen.value))
        facts = {"displacement": displacement, "agreement": _agreement(problem, tower)}
        return {self.name: Figures(found.test, found.validation, found.facts | facts)}

    def _line(self, problem: Problem) -> Line:
        merged: State = {}
        moved = [key for key in problem.base if self._is_essential(key)]
        for key, tensor in problem.base.items():
            if key in moved:
                update = fuse(self._cut(_decompositions(problem, key)), self.settings).update
                # linear_map turns a projection over, and so back again.
                merged[key] = (update.mT if key == PROJECTION else update).reshape(tensor.shape)
            else:
                merged[key] = merge_other([own[key] for own in problem.updates.values()], self.settings)
        scales = layer_scales({key: float(update.norm()) for key, update in merged.items()}, self.settings)
        merged = {key: update * scales[key] for key, update in merged.items()}
        rest = {key: 0 if key in moved else merged[key] for key in merged}
        origin = {key: tensor.double() + rest[key] for key, tensor in problem.base.items()}
        return Line(origin, {key: merged[key] for key in moved})

    def _is_essential(self, weight: str) -> bool:
        return merges_essentially(weight) or bool({weight, layer_kind(weight)} & set(self.essential))

    def _cut(self, parts: list[Decomposition]) -> list[Decomposition]:
        size = min(parts[0].basis.shape[0], parts[0].coordinates.shape[1] * len(parts))
        ranks = [max(1, size // len(parts))] * len(parts)
        if self.split == "energy":
            ranks = ranks_by_energy([part.eigenvalues for part in parts], size)
        return [
            part._replace(basis=part.basis[:, :rank], coordinates=part.coordinates[:rank])
            for part, rank in zip(parts, ranks, strict=True)
        ]


def ranks_by_energy(spectra: list[Tensor], total: int) -> list[int]:
    """How many directions of each task are among the ``total`` with the largest share of their own energy."""
    shares = torch.cat([values / values.sum() for values in spectra])
    owners = torch.repeat_interleave(torch.tensor([len(values) for values in spectra]))
    kept = owners[shares.argsort(descending=True, stable=True)[:total]]
    return [max(1, int(count)) for count in torch.bincount(kept, minlength=len(spectra))]


def _decompositions(problem: Problem, weight: str) -> list[Decomposition]:
    """Of every task's update of one weight, untruncated."""
    inputs = problem.inputs()

    def make() -> State:
        found: State = {}
        for name in problem.names:
            update = linear_map(weight, problem.updates[name][weight])
            part = decompose_update(update, inputs[name][weight], min(update.shape))
            found |= {f"{name}/{field}": tensor for field, tensor in part._asdict().items()}
        return found

    kept = problem.once(f"decompositions of {weight}", make)
    return [
        Decomposition(*(kept[f"{name}/{field}"] for field in Decomposition._fields)) for name in problem.names
    ]


def _agreement(problem: Problem, tower: torch.nn.Module) -> float:
    shares = []
    for name in problem.names:
        images, head = problem.proxy_images(name, SCORED), problem.heads[name]
        with torch.inference_mode():
            models = (tower, problem.tower(problem.tuned[name]))
            ours, own = (predictions(model(images), head) for model in models)
        shares.append(float((ours == own).double().mean()))
    return sum(shares) / len(shares)


def _without(**parts: bool | float) -> MergeSettings:
    return PUBLISHED.model_copy(update=parts)


@dataclass(frozen=True)
class FineTunesOfCandidates:
    """What a gain on validation images is relative to. One column."""

    name: str = "candidate_fine_tunes"

    def measure(self, problem: Problem) -> dict[str, Figures]:
        towers = {name: problem.tower(problem.tuned[name]) for name in problem.names}
        test, validation = (
            {name: problem.accuracy_on(towers[name], name, split) for name in towers} for split in SPLITS
        )
        return {self.name: Figures(test, validation)}


PREFIX = "candidate_"
"""Of the columns here, which belong to no table of methods."""

PUBLISHED_CANDIDATE = "candidate_published"
FINE_TUNES = FineTunesOfCandidates()

CANDIDATES = (
    Candidate(PUBLISHED_CANDIDATE),
    Candidate("candidate_no_eigen_weights", _without(eigen_exponent=0.0)),
    Candidate("candidate_no_inter_task", _without(inter_task=False)),
    Candidate("candidate_no_inter_dimension", _without(inter_dimension=False)),
    Candidate("candidate_no_inter_layer", _without(inter_layer=False)),
    Candidate("candidate_exponent_1", _without(scaling_exponent=1.0)),
    Candidate("candidate_exponent_3", _without(scaling_exponent=3.0)),
    Candidate("candidate_energy_split", split="energy"),
    Candidate("candidate_out_proj", essential=("attn.out_proj",)),
    Candidate("candidate_proj", essential=(PROJECTION,)),
    Candidate("candidate_conv1", essential=(CONV,)),
    Candidate("candidate_out_proj_proj_conv1", essential=("attn.out_proj", PROJECTION, CONV)),
)
