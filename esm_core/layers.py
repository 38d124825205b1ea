"""Which weights of a vision tower are which kind of layer, by parameter name.

Names are open_clip's, with the ``visual.`` prefix. Matching is by parameter name because the module
that holds an attention differs between open_clip releases while the names stay.
"""

from typing import Literal, get_args

LayerKind = Literal["attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]

LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)

ESSENTIAL_KINDS: frozenset[LayerKind] = frozenset({"attn.in_proj", "mlp.c_fc", "mlp.c_proj"})
"""Kinds merged by essential subspace decomposition as published (arXiv 2602.20208)."""

SHIFT_KINDS: frozenset[LayerKind] = frozenset({"mlp.c_proj"})
"""Kinds with fewer outputs than inputs: collection keeps the shift itself for their merge."""

CONV, PROJECTION = "visual.conv1.weight", "visual.proj"

SMALL_MATRICES = (CONV, PROJECTION)
"""Matrices outside the transformer's blocks: patches to tokens, and the pooled token to features."""

_SUFFIXES: dict[str, LayerKind] = {
    "attn.in_proj_weight": "attn.in_proj",
    "attn.out_proj.weight": "attn.out_proj",
    "mlp.c_fc.weight": "mlp.c_fc",
    "mlp.c_proj.weight": "mlp.c_proj",
}


def layer_kind(weight: str) -> LayerKind | None:
    """The kind of the layer that the parameter ``weight`` belongs to, or None for any other one."""
    # An attentional pooler's attention is cross-attention: another layer under the same names.
    if "attn_pool." in weight:
        return None
    for suffix, kind in _SUFFIXES.items():
        if weight == suffix or weight.endswith("." + suffix):
            return kind
    return None
