"""Finding the vision tower in a checkpoint, whatever its layout, under open_clip's names."""

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.layout import VISUAL, Tower
from esm_core.checkpoints.layouts import find_tower
from esm_core.checkpoints.layouts.open_clip import prefix
from esm_core.checkpoints.view import Source, View
from esm_core.extensions import Code

# What OpenAI's own archives store beside the weights; open_clip drops these too.
_CONSTANTS = {"input_resolution", "context_length", "vocab_size"}


class VisionCheckpoint(View):
    """A checkpoint seen as a vision tower: ``visual.*`` names of open_clip only, read lazily.

    Attributes
    ----------
    ignored, layout, borrows_projection
        As in :class:`~esm_core.checkpoints.layout.Tower`; ``layout`` begins with ``HF`` for the layouts of
        transformers.
    code : Code, optional
        Which code knows the layout, where another distribution brings it.
    """

    def __init__(self, checkpoint: Checkpoint, tower: Tower, code: Code | None = None) -> None:
        super().__init__(checkpoint, {VISUAL + name: source for name, source in tower.sources.items()})
        self.ignored = tower.ignored
        self.layout = tower.layout
        self.borrows_projection = tower.borrows_projection
        self.code = code


def vision_checkpoint(checkpoint: Checkpoint) -> VisionCheckpoint:
    """The vision tower in ``checkpoint`` under open_clip's names; reads no tensor.

    Raises
    ------
    InputError
        The names fit no layout or several, or those of a layout are incomplete or unknown.

    Notes
    -----
    Names alone decide. Whether the tower is complete and of the right shapes is for the caller to
    compare with an architecture.
    """
    return VisionCheckpoint(checkpoint, *find_tower(checkpoint))


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Everything but the vision tower of a full open_clip CLIP; empty for a tower or another layout.

    A CLIP is full where it has a text transformer, since some ImageEncoder checkpoints keep a token
    embedding without one. Names are open_clip's, without the prefix the file may have.
    """
    outer = prefix(checkpoint)
    sources: dict[str, Source] = {}
    if outer is not None:
        for name, info in checkpoint.tensors.items():
            bare = name.removeprefix(outer)
            if name.startswith(outer) and not bare.startswith(VISUAL) and bare not in _CONSTANTS:
                sources[bare] = Source((name,), info)
    plain = "token_embedding.weight" in sources and any(n.startswith("transformer.") for n in sources)
    full = plain or any(name.startswith("text.") for name in sources)
    return View(checkpoint, sources if full else {})
