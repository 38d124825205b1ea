"""Which parameters of a vision tower an expert may change, by name."""

import re
from collections.abc import Iterable

from torch import Tensor

from esm_core.layers import PROJECTION

_SMALL = re.compile(
    r"visual\.(class_embedding|positional_embedding|(ln_pre|ln_post)\.(weight|bias)"
    r"|transformer\.resblocks\.\d+\.(ln_[12]\.(weight|bias)"
    r"|attn\.(in_proj_bias|out_proj\.bias)|mlp\.(c_fc|c_proj)\.bias))"
)


def small_parameters(weights: Iterable[str]) -> list[str]:
    """Norms, biases, class token and positional embedding, sorted: an expert holds these whole.

    Where an attentional pooler takes the place of the plain pool, what comes after the blocks stays static.
    """
    names = list(weights)
    pooled = any(name.startswith("visual.attn_pool") for name in names)
    return sorted(n for n in names if _SMALL.fullmatch(n) and not (pooled and ".ln_post." in n))


def bias_of(weight: str) -> str:
    """The bias that is added to the output of a layer's ``weight``."""
    if weight.endswith("in_proj_weight"):
        return weight.removesuffix("weight") + "bias"
    return weight.removesuffix(".weight") + ".bias"


def linear_map(weight: str, tensor: Tensor) -> Tensor:
    """A weight as the matrix ``[d_out, d_in]`` of ``y = x Wᵀ``; for ``proj`` its own inverse.

    The convolution acts on flattened patches, and open_clip keeps its projection transposed.
    """
    return tensor.mT if weight == PROJECTION else tensor.reshape(tensor.shape[0], -1)
