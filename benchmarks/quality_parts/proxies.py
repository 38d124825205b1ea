"""Which images the layer inputs of a fine-tune are collected on."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo.splits import SIZE
from demo.training import to_tensor

Source = Literal["own", "other_task", "faces"]


@dataclass(frozen=True)
class Proxies:
    """Proxy images of every task.

    Attributes
    ----------
    count : int
        Images per task.
    source : str
        ``own``: the task's own. ``other_task``: those of the next task by name. ``faces``: images of a data
        set that is no task here, the same ones for every task.
    """

    count: int = 32
    source: Source = "own"

    @property
    def label(self) -> str:
        return f"{self.source}-{self.count}"


DEFAULT_PROXIES = Proxies()


def faces(count: int) -> Tensor:
    """``[count, 3, 32, 32]``: pieces of LFW pictures that come with scikit-image, faces and backgrounds.

    Raises
    ------
    ValueError
        There are fewer of them.
    """
    with (files("skimage.data") / "lfw_subset.npy").open("rb") as file:
        pictures = np.load(file)
    if count > len(pictures):
        raise ValueError(f"{count} images were asked for, there are {len(pictures)}")
    # Faces come first, then backgrounds: evenly from both.
    chosen = pictures[np.linspace(0, len(pictures) - 1, count).round().astype(int)]
    grey = [Image.fromarray((255 * picture).round().astype(np.uint8)) for picture in chosen]
    resized = [np.asarray(p.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")) for p in grey]
    return to_tensor(np.stack(resized)).to(torch.float32)
