"""transformers' CLIPModel, CLIPVisionModel and CLIPVisionModelWithProjection.

Up to version 4 a CLIPVisionModel is written below ``vision_model.``, since version 5 without it.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esm_core.checkpoints.base import Checkpoint, TensorInfo
from esm_core.checkpoints.layout import OUTER, Tower
from esm_core.checkpoints.view import Source
from esm_core.errors import raise_together
from esm_core.storage import Location

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
_QKV = re.compile(r"self_attn\.([qkv])_proj")
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
    packed: dict[str, dict[str, str]] = {}
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
        elif block and (letter := _QKV.fullmatch(block[2])):
            target = f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"
            packed.setdefault(target, {})[letter[1]] = name
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
    for target, parts in packed.items():
        problem = _incomplete(where, tensors, parts)
        if problem:
            problems.append(problem)
        else:
            sources[target] = _packed(tensors, parts)
    projection = outer + _PROJECTION
    if projection in tensors:
        used.add(projection)
        info = tensors[projection]
        if len(info.shape) != 2:
            problems.append(f"{where}: {projection} has shape {info.shape}, expected (embed_dim, width).")
        sources["proj"] = Source((projection,), TensorInfo(info.shape[::-1], info.dtype), _transposed)
    raise_together(problems)
    return sources, used


def _incomplete(where: Location, tensors: Mapping[str, TensorInfo], parts: Mapping[str, str]) -> str | None:
    known = next(iter(parts.items()))
    names = {letter: re.sub(r"[qkv]_proj", f"{letter}_proj", known[1]) for letter in "qkv"}
    missing = [name for letter, name in names.items() if letter not in parts]
    if missing:
        return (
            f"{where}: {', '.join(missing)} missing beside {known[1]}; queries, keys and values are merged "
            "together. Save the whole model."
        )
    found = [tensors[name] for name in names.values()]
    if len(set(found)) > 1 or not found[0].shape:
        shapes = ", ".join(
            f"{letter} {info.shape} {info.dtype}" for letter, info in zip("qkv", found, strict=True)
        )
        return f"{where}: {names['q']} and its keys and values differ ({shapes}); they must be of one shape."
    return None


def _packed(tensors: Mapping[str, TensorInfo], parts: Mapping[str, str]) -> Source:
    names = tuple(parts[letter] for letter in "qkv")
    info = tensors[names[0]]
    shape = (3 * info.shape[0], *info.shape[1:])
    return Source(names, TensorInfo(shape, info.dtype), _concatenated)


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _transposed(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor.T.contiguous()
