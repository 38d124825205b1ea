"""Finding the vision tower in a checkpoint, whatever its layout, under open_clip's names."""

import re
from collections.abc import Iterable, Mapping

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.hf_names import HF_MARK, hf_sources
from esm_core.checkpoints.view import Source, View
from esm_core.errors import InputError

VISUAL = "visual."
LAYOUTS = (
    "open_clip, full or tower (visual.*)",
    "the ImageEncoder of task arithmetic and TSV (model.visual.*)",
    "a bare open_clip vision tower (conv1.weight, transformer.resblocks.*)",
    "HF CLIPModel, CLIPVisionModel or CLIPVisionModelWithProjection (vision_model.* or embeddings.*)",
)
"""The layouts :func:`vision_checkpoint` understands."""

_OUTER = ("", "model.", "module.", "module.model.")
_TOWER = re.compile(
    r"(conv1|class_embedding|positional_embedding|ln_pre|ln_post|proj|attn_pool|transformer\.resblocks)(\.|$)"
)
# What OpenAI's own archives store beside the weights; open_clip drops these too.
_CONSTANTS = {"input_resolution", "context_length", "vocab_size"}


class VisionCheckpoint(View):
    """A checkpoint seen as a vision tower: ``visual.*`` names of open_clip only, read lazily.

    Attributes
    ----------
    ignored : tuple of str
        Names in the file that belong to no vision tower (text tower, logit scale, a head).
    layout : str
        What the file's layout is, for people; begins with ``HF`` for the layouts of transformers.
    """

    def __init__(
        self, checkpoint: Checkpoint, sources: Mapping[str, Source], ignored: Iterable[str], layout: str
    ) -> None:
        super().__init__(checkpoint, {VISUAL + name: source for name, source in sources.items()})
        self.ignored = tuple(ignored)
        self.layout = layout


def vision_checkpoint(checkpoint: Checkpoint) -> VisionCheckpoint:
    """The vision tower in ``checkpoint`` under open_clip's names; reads no tensor.

    Raises
    ------
    InputError
        The names fit no layout, or those of a transformers tower are incomplete or unknown.

    Notes
    -----
    Names alone decide. Whether the tower is complete and of the right shapes is for the caller to
    compare with an architecture.
    """
    names = checkpoint.tensors
    outer = _open_clip_prefix(checkpoint)
    if outer is not None:
        below = f", below {outer.rstrip('.')}" if outer else ""
        return _renamed(checkpoint, outer + VISUAL, re.compile(""), f"open_clip (visual.*{below})")
    for outer in _OUTER:
        if outer + "conv1.weight" in names and any(
            n.startswith(outer + "transformer.resblocks.") for n in names
        ):
            return _renamed(checkpoint, outer, _TOWER, "open_clip tower without the prefix visual.")
        for inner in ("vision_model.", ""):
            if outer + inner + HF_MARK in names:
                sources, used = hf_sources(checkpoint, outer, inner)
                layout = f"HF CLIP vision model ({inner or 'embeddings.'}*)"
                return VisionCheckpoint(checkpoint, sources, (n for n in names if n not in used), layout)
    first = ", ".join(list(names)[:4]) or "no tensors"
    raise InputError(
        f"{checkpoint.location}: holds no vision tower esmerge knows: its first names are {first}. "
        f"Layouts understood: {'; '.join(LAYOUTS)}."
    )


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Everything but the vision tower of a full open_clip CLIP; empty for a tower or another layout.

    A CLIP is full where it has a text transformer, since some ImageEncoder checkpoints keep a token
    embedding without one. Names are open_clip's, without the prefix the file may have.
    """
    outer = _open_clip_prefix(checkpoint)
    sources: dict[str, Source] = {}
    if outer is not None:
        for name, info in checkpoint.tensors.items():
            bare = name.removeprefix(outer)
            if name.startswith(outer) and not bare.startswith(VISUAL) and bare not in _CONSTANTS:
                sources[bare] = Source((name,), info)
    plain = "token_embedding.weight" in sources and any(n.startswith("transformer.") for n in sources)
    full = plain or any(name.startswith("text.") for name in sources)
    return View(checkpoint, sources if full else {})


def _open_clip_prefix(checkpoint: Checkpoint) -> str | None:
    """What stands before ``visual.`` in an open_clip checkpoint; None in any other one."""
    for outer in _OUTER:
        if any(name.startswith(outer + VISUAL) for name in checkpoint.tensors):
            return outer
    return None


def _renamed(checkpoint: Checkpoint, prefix: str, tower: re.Pattern[str], layout: str) -> VisionCheckpoint:
    sources: dict[str, Source] = {}
    ignored = []
    for name, info in checkpoint.tensors.items():
        bare = name.removeprefix(prefix)
        if name.startswith(prefix) and tower.match(bare):
            sources[bare] = Source((name,), info)
        else:
            ignored.append(name)
    return VisionCheckpoint(checkpoint, sources, ignored, layout)
