"""open_clip's names without ``visual.``: the state dict of ``model.visual``."""

import re

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.layout import OUTER, Tower
from esm_core.checkpoints.view import Source

TITLE = "a bare open_clip vision tower (conv1.weight, transformer.resblocks.*)"

_TOWER = re.compile(
    r"(conv1|class_embedding|positional_embedding|ln_pre|ln_post|proj|attn_pool|transformer\.resblocks)(\.|$)"
)


def find_tower(checkpoint: Checkpoint) -> Tower | None:
    """The tensors whose names a tower of open_clip has."""
    names = checkpoint.tensors
    for outer in OUTER:
        blocks = f"{outer}transformer.resblocks."
        if f"{outer}conv1.weight" in names and any(name.startswith(blocks) for name in names):
            bare = {name: name.removeprefix(outer) for name in names if name.startswith(outer)}
            tower = {name: own for name, own in bare.items() if _TOWER.match(own)}
            sources = {own: Source((name,), names[name]) for name, own in tower.items()}
            ignored = tuple(name for name in names if name not in tower)
            return Tower(sources, ignored, "open_clip tower without the prefix visual.")
    return None
