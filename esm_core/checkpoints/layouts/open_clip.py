"""open_clip's own names, and those of the ImageEncoder of task arithmetic and TSV around them."""

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.layout import OUTER, VISUAL, Tower
from esm_core.checkpoints.view import Source

TITLE = "open_clip, full or tower (visual.*), or the ImageEncoder of task arithmetic and TSV (model.visual.*)"


def find_tower(checkpoint: Checkpoint) -> Tower | None:
    """Every tensor below ``visual.``, under the name it has."""
    outer = prefix(checkpoint)
    if outer is None:
        return None
    below = f", below {outer.rstrip('.')}" if outer else ""
    start = outer + VISUAL
    inside = {name: info for name, info in checkpoint.tensors.items() if name.startswith(start)}
    sources = {name.removeprefix(start): Source((name,), info) for name, info in inside.items()}
    ignored = tuple(name for name in checkpoint.tensors if name not in inside)
    return Tower(sources, ignored, f"open_clip (visual.*{below})")


def prefix(checkpoint: Checkpoint) -> str | None:
    """What stands before ``visual.`` in an open_clip checkpoint; None in any other one."""
    for outer in OUTER:
        if any(name.startswith(outer + VISUAL) for name in checkpoint.tensors):
            return outer
    return None
