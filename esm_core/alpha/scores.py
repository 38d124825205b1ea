"""Scores of values of α: one small JSON per (α, task), and one for what a search has chosen."""

import torch
from torch import Tensor
from torch.nn import functional

from esm_core.alpha.choice import ChosenAlpha
from esm_core.alpha.files import choice_file, score_file
from esm_core.alpha.line import tower_at
from esm_core.alpha.proxy_features import proxy_features, read_references
from esm_core.architecture import build_tower
from esm_core.labelled import count_correct
from esm_core.plan import Plan
from esm_core.stages import FORMAT, canonical_json, read_versioned


def score(plan: Plan, alpha: float, name: str) -> float:
    """How good ``alpha`` is for one task, in [-1, 1]; read where it is already known.

    ``validation``: accuracy on the task's validation images. ``label_free``: :func:`displacement_cosine`
    on its proxy images. Needs the line, and for ``label_free`` the reference features.

    Raises
    ------
    InputError
        Validation images that are unreadable, unlabelled, or labelled beyond the head.
    IntegrityError
        The line or the reference features are damaged.
    """
    location = score_file(plan, alpha, name)
    if location.is_file():
        return float(read_versioned(location, "facts")["score"])
    tower = build_tower(plan.architecture, tower_at(plan, alpha), plan.recipe.evaluate.device, torch.float32)
    if plan.recipe.alpha == "validation":
        correct, total = count_correct(plan, tower, name, "validation")
        value = correct / total
    else:
        value = displacement_cosine(proxy_features(plan, tower, name), *read_references(plan, name))
    facts = {"alpha": alpha, "method": plan.recipe.alpha, "score": value, "task": name}
    location.write_bytes(canonical_json({"format": FORMAT, "facts": facts}))
    return value


def displacement_cosine(merged: Tensor, base: Tensor, tuned: Tensor) -> float:
    """Mean over images of ``cos(d_α, d_t)``, for L2-normalised features ``[n, embed_dim]``.

    ``d_α`` is ``f_α - f_0``, the way the merged model moves an image's feature away from the base's, less
    the mean of it over the images, and ``d_t`` the same of the fine-tune. What moves all images alike does
    not tell them apart, hence the centring. Not from the papers; the method notes compare it with others.
    """
    cosines = functional.cosine_similarity(_centred(merged - base), _centred(tuned - base), dim=-1)
    # Where α is so large that the tower overflows, the score is the worst one, and the search turns back.
    return float(cosines.nan_to_num(nan=-1.0).mean())


def _centred(rows: Tensor) -> Tensor:
    # A single image has nothing to be compared with: its displacement is taken as it is.
    return rows - rows.mean(dim=0) if len(rows) > 1 else rows


def recall_choice(plan: Plan) -> Plan:
    """The plan with the α that is fixed or that an earlier search has chosen; else the plan as it is."""
    if plan.alpha is not None or not choice_file(plan).is_file():
        return plan
    chosen = ChosenAlpha.model_validate(read_versioned(choice_file(plan), "facts"))
    return plan.model_copy(update={"alpha": chosen})


def keep_choice(plan: Plan, chosen: ChosenAlpha) -> Plan:
    """Note what a search has chosen, and return the plan with it."""
    content = {"format": FORMAT, "facts": chosen.model_dump(mode="json")}
    choice_file(plan).write_bytes(canonical_json(content))
    return plan.model_copy(update={"alpha": chosen})
