"""transformers' CLIPModel, CLIPVisionModel and CLIPVisionModelWithProjection.

Up to version 4 a CLIPVisionModel is written below ``vision_model.``, since version 5 without it.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from esm_core.checkpoints.base import Checkpoint, TensorInfo
from esm_core.checkpoints.layout import OUTER, Tower, packed_source
from esm_core.checkpoints.view import Source
from esm_core.errors import InputError, raise_together

TITLE = "HF CLIPModel, CLIPVisionModel or CLIPVisionModelWithProjection (vision_model.* or embeddings.*)"

_MARK = "embeddings.patch_embedding.weight"
_PLAIN = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # spelled so in transformers
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_SECTIONS = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = re.compile(r"self_attn\.[qkv]_proj")
_BUFFER = "embeddings.position_ids"
_PROJECTION = "visual_projection.weight"


def find_tower(checkpoint: Checkpoint) -> Tower | None:
    """Map a tower of transformers onto open_clip's names.

    Queries, keys and values are packed as ``[3 width, width]`` and ``[3 width]``; the projection is
    transposed to ``[width, embed_dim]``; ``position_ids`` is dropped.

    Raises
    ------
    InputError
        Naming every incomplete or uneven q/k/v and every tensor of the tower without a counterpart.
    """
    for outer in OUTER:
        for inner in ("vision_model.", ""):
            if outer + inner + _MARK in checkpoint.tensors:
                sources, used = _sources(checkpoint, outer, inner)
                ignored = tuple(name for name in checkpoint.tensors if name not in used)
                layout = f"HF CLIP vision model ({inner or 'embeddings.'}*)"
                return Tower(sources, ignored, layout, borrows_projection=True)
    return None


def _sources(checkpoint: Checkpoint, outer: str, inner: str) -> tuple[dict[str, Source], set[str]]:
    """Sources by open_clip's names, and the names in the file that belong to the tower."""
    where, tensors = checkpoint.location, checkpoint.tensors
    sources: dict[str, Source] = {}
    packed: dict[str, str] = {}
    used: set[str] = set()
    unknown: list[str] = []
    for name, info in tensors.items():
        tail = name.removeprefix(outer + inner)
        if not name.startswith(outer + inner) or not (inner or tail.startswith(_SECTIONS)):
            continue
        used.add(name)
        block = _BLOCK.fullmatch(tail)
        if tail in _PLAIN:
            sources[_PLAIN[tail]] = Source((name,), info)
        elif block and _QKV.fullmatch(block[2]):
            packed[f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"] = name
        elif block and block[2] in _IN_BLOCK:
            sources[f"transformer.resblocks.{block[1]}.{_IN_BLOCK[block[2]]}.{block[3]}"] = Source(
                (name,), info
            )
        elif tail != _BUFFER:
            unknown.append(name)
    problems = []
    if unknown:
        more = ", ..." if len(unknown) > 3 else ""
        problems.append(
            f"{where}: {', '.join(unknown[:3])}{more} has no counterpart in an open_clip vision transformer. "
            "Is this a CLIP vision model?"
        )
    for target, known in packed.items():
        try:
            names = [re.sub(r"[qkv]_proj", f"{letter}_proj", known) for letter in "qkv"]
            sources[target] = packed_source(checkpoint, names)
        except InputError as error:
            problems += error.problems
    projection = outer + _PROJECTION
    if projection in tensors:
        used.add(projection)
        info = tensors[projection]
        if len(info.shape) != 2:
            problems.append(f"{where}: {projection} has shape {info.shape}, expected (embed_dim, width).")
        sources["proj"] = Source((projection,), TensorInfo(info.shape[::-1], info.dtype), _transposed)
    raise_together(problems)
    return sources, used


def _transposed(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor.T.contiguous()
