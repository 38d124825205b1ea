"""transformers' ViTModel and ViTForImageClassification: a tower of open_clip without ``ln_pre``.

The class token after the last norm is what open_clip calls the feature, so ``proj`` is the identity. Patches
get a bias there, which open_clip has not: added to the positions of the patches it does the same. Pooler and
classifier are no part of the tower. An ``open_clip_config.json`` of such a tower says ``no_ln_pre: true``,
``norm_kwargs: {"eps": 1e-12}`` (transformers' default) and an ``embed_dim`` that is the width.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from esm_core.checkpoints.base import Checkpoint, TensorInfo
from esm_core.checkpoints.layout import OUTER, Tower, packed_source
from esm_core.checkpoints.view import Source
from esm_core.errors import InputError, raise_together

TITLE = "HF ViTModel or ViTForImageClassification (embeddings.patch_embeddings.* below vit. or nothing)"

_MARK = "embeddings.patch_embeddings.projection.weight"
_PATCH_BIAS = "embeddings.patch_embeddings.projection.bias"
_POSITIONS = "embeddings.position_embeddings"
_TOKEN = "embeddings.cls_token"  # noqa: S105  the class token
_PLAIN = {_MARK: "conv1.weight", "layernorm.weight": "ln_post.weight", "layernorm.bias": "ln_post.bias"}
# As files name them, and as state_dict() does since transformers 5.
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")
_QUERY = {
    "attention.attention.query": "attention.attention.{}",
    "attention.q_proj": "attention.{}_proj",
}
_OTHERS = {"attention.attention.key", "attention.attention.value", "attention.k_proj", "attention.v_proj"}
_IN_BLOCK = {
    "layernorm_before": "ln_1",
    "layernorm_after": "ln_2",
    "attention.output.dense": "attn.out_proj",
    "attention.o_proj": "attn.out_proj",
    "intermediate.dense": "mlp.c_fc",
    "mlp.fc1": "mlp.c_fc",
    "output.dense": "mlp.c_proj",
    "mlp.fc2": "mlp.c_proj",
}
_SECTIONS = ("embeddings.", "encoder.", "layers.", "layernorm.")


def find_tower(checkpoint: Checkpoint) -> Tower | None:
    """Map a plain ViT onto open_clip's names.

    Raises
    ------
    InputError
        Naming every tensor of the tower without a counterpart, incomplete or uneven queries, keys and
        values, and tokens, positions or a patch bias of another shape than a ViT's.
    """
    for outer in OUTER:
        for inner in ("vit.", ""):
            start = outer + inner
            if start + _MARK in checkpoint.tensors:
                tails = {name.removeprefix(start) for name in checkpoint.tensors if name.startswith(start)}
                inside = sorted(tail for tail in tails if tail.startswith(_SECTIONS))
                used = {start + tail for tail in inside}
                ignored = tuple(name for name in checkpoint.tensors if name not in used)
                return Tower(_sources(checkpoint, start, inside), ignored, f"HF ViT ({inner}embeddings.*)")
    return None


def _sources(checkpoint: Checkpoint, start: str, inside: Sequence[str]) -> dict[str, Source]:
    tensors, where = checkpoint.tensors, checkpoint.location
    sources: dict[str, Source] = {}
    unknown: list[str] = []
    problems: list[str] = []
    for tail in inside:
        name, block = start + tail, _BLOCK.fullmatch(tail)
        if tail in _PLAIN:
            sources[_PLAIN[tail]] = Source((name,), tensors[name])
        elif block and block[2] in _QUERY:
            words = ("query", "key", "value") if "query" in tail else ("q", "k", "v")
            parts = [name.replace(block[2], _QUERY[block[2]].format(word)) for word in words]
            try:
                target = f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"
                sources[target] = packed_source(checkpoint, parts)
            except InputError as error:
                problems += error.problems
        elif block and block[2] in _IN_BLOCK:
            target = f"transformer.resblocks.{block[1]}.{_IN_BLOCK[block[2]]}.{block[3]}"
            sources[target] = Source((name,), tensors[name])
        elif tail not in (_TOKEN, _POSITIONS, _PATCH_BIAS) and not (block and block[2] in _OTHERS):
            unknown.append(name)
    if unknown:
        more = ", ..." if len(unknown) > 3 else ""
        problems.append(
            f"{where}: {', '.join(unknown[:3])}{more} has no counterpart in an open_clip vision transformer. "
            "Is this a plain ViT?"
        )
    width = tensors[start + _MARK].shape[:1]
    expected = {_TOKEN: (1, 1, *width), _PATCH_BIAS: width}
    expected[_POSITIONS] = (1, *tensors.get(start + _POSITIONS, _NOTHING).shape[1:2], *width)
    for tail, shape in expected.items():
        found = tensors.get(start + tail, _NOTHING).shape
        if found != shape:
            problems.append(f"{where}: {start + tail} has shape {found}, expected {shape} in a ViT.")
    raise_together(problems)
    dtype = tensors[start + _MARK].dtype
    sources["class_embedding"] = Source((start + _TOKEN,), TensorInfo(width, dtype), _flat)
    positions = Source(
        (start + _POSITIONS, start + _PATCH_BIAS), TensorInfo(expected[_POSITIONS][1:], dtype), _with_bias
    )
    identity = Source((start + _MARK,), TensorInfo((*width, *width), dtype), _identity)
    return sources | {"positional_embedding": positions, "proj": identity}


_NOTHING = TensorInfo((), torch.float32)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].reshape(-1)


def _with_bias(parts: Sequence[Tensor]) -> Tensor:
    positions = parts[0][0].clone()
    positions[1:] += parts[1]
    return positions


def _identity(parts: Sequence[Tensor]) -> Tensor:
    return torch.eye(len(parts[0]), dtype=parts[0].dtype)
