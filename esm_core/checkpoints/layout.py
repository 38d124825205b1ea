"""What a naming scheme of checkpoints makes of a file: the tensors of the tower, by open_clip's names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esm_core.checkpoints.base import Checkpoint, TensorInfo
from esm_core.checkpoints.view import Source
from esm_core.errors import InputError

VISUAL = "visual."
OUTER = ("", "model.", "module.", "module.model.")
"""What may stand before every name of a layout: wrappers of models, such as DataParallel's."""


@dataclass(frozen=True)
class Tower:
    """A vision tower found in a checkpoint.

    Attributes
    ----------
    sources : mapping of str to Source
        How each tensor is made of the file's, by open_clip's name without ``visual.``.
    ignored : tuple of str
        Names in the file that belong to no vision tower (text tower, logit scale, a head).
    layout : str
        What the file's layout is, for people.
    borrows_projection : bool
        Whether a fine-tune of this layout may be without ``proj``: the base's is taken then.
    """

    sources: Mapping[str, Source]
    ignored: tuple[str, ...]
    layout: str
    borrows_projection: bool = False


def packed_source(checkpoint: Checkpoint, names: Sequence[str]) -> Source:
    """Queries, keys and values, stored apart, as ``attn.in_proj`` has them: one below another.

    Parameters
    ----------
    names : sequence of str
        The three names in the file.

    Returns
    -------
    Source
        ``[3 width, ...]``.

    Raises
    ------
    InputError
        One of them is missing, or they are not of one shape and dtype.
    """
    where, tensors = checkpoint.location, checkpoint.tensors
    missing = [name for name in names if name not in tensors]
    if missing:
        known = next((name for name in names if name in tensors), "others")
        raise InputError(
            f"{where}: {', '.join(missing)} missing beside {known}; queries, keys and values are merged "
            "together. Save the whole model."
        )
    found = [tensors[name] for name in names]
    if len(set(found)) > 1 or not found[0].shape:
        shapes = ", ".join(
            f"{letter} {info.shape} {info.dtype}" for letter, info in zip("qkv", found, strict=True)
        )
        raise InputError(
            f"{where}: {names[0]} and its keys and values differ ({shapes}); they must be of one shape."
        )
    shape = (3 * found[0].shape[0], *found[0].shape[1:])
    return Source(tuple(names), TensorInfo(shape, found[0].dtype), _concatenated)


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))
