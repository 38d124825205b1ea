"""What a split of a task is, and how large."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Images = NDArray[np.uint8]
"""Images as PNG files will hold them: [count, 32, 32, 3]."""

Labels = NDArray[np.int64]

SIZE = 32
"""Height and width of every image."""


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class Sizes:
    """At most this many images per task."""

    train: int
    val: int
    test: int

    def of(self, split: str) -> int:
        """The size of the split with this name."""
        return int(getattr(self, split))
