"""What a naming scheme of checkpoints makes of a file: the tensors of the tower, by open_clip's names."""

from collections.abc import Mapping
from dataclasses import dataclass

from esm_core.checkpoints.view import Source

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
