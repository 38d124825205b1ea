"""Patches of the pictures that come with scikit-image and scikit-learn.

Only files inside the wheels are read: ``skimage.data`` would download the others.
"""

import itertools
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.splits import SIZE, SPLITS, Sizes, Split, SplitName

BLOCK = 64
"""Pictures are cut into blocks of about this many pixels; a patch never leaves its block."""

SMALLEST = 28
"""Side of the smallest patch, in pixels of the picture."""

SHARES: dict[SplitName, float] = {"train": 0.6, "val": 0.15, "test": 0.25}
"""How a picture's blocks are shared out."""

FLAT = 4.0
"""Patches whose grey values vary less than this (sky, page margins) show nothing and are cut again."""


@dataclass(frozen=True)
class Photo:
    """A bundled picture, which is a class of its own."""

    name: str
    package: str
    path: str


def _skimage(name: str, file: str) -> Photo:
    return Photo(name, "skimage.data", file)


CATALOGUES = {
    "photos": (
        _skimage("astronaut", "astronaut.png"),
        _skimage("cat", "chelsea.png"),
        _skimage("coffee", "coffee.png"),
        _skimage("motorcycle", "motorcycle_left.png"),
        _skimage("rocket", "rocket.jpg"),
        Photo("china", "sklearn.datasets.images", "china.jpg"),
        Photo("flower", "sklearn.datasets.images", "flower.jpg"),
    ),
    "textures": (
        _skimage("brick", "brick.png"),
        _skimage("cell", "cell.png"),
        _skimage("coins", "coins.png"),
        _skimage("galaxies", "hubble_deep_field.jpg"),
        _skimage("grass", "grass.png"),
        _skimage("gravel", "gravel.png"),
        _skimage("moon", "moon.png"),
        _skimage("print", "page.png"),
        _skimage("retina", "retina.jpg"),
        _skimage("tissue", "ihc.png"),
    ),
}
"""Task to pictures. Photos are in colour; textures in grey: the pattern has to tell them apart."""


Box = tuple[int, int, int, int]
"""Left, top, right, bottom, as in Pillow."""


def share_blocks(width: int, height: int, rng: np.random.Generator) -> dict[SplitName, list[Box]]:
    """Disjoint blocks that cover a picture, shared out between the splits at random."""
    across = np.linspace(0, width, max(1, round(width / BLOCK)) + 1).astype(int)
    down = np.linspace(0, height, max(1, round(height / BLOCK)) + 1).astype(int)
    boxes = [
        (int(left), int(top), int(right), int(bottom))
        for top, bottom in itertools.pairwise(down)
        for left, right in itertools.pairwise(across)
    ]
    order = [boxes[i] for i in rng.permutation(len(boxes))]
    val = max(1, round(SHARES["val"] * len(order)))
    test = max(1, round(SHARES["test"] * len(order)))
    return {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}


def cut_patches(photos: tuple[Photo, ...], sizes: Sizes, rng: np.random.Generator) -> dict[SplitName, Split]:
    """Equally many patches of every picture, labelled with the picture's index."""
    patches: dict[SplitName, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
    for photo in photos:
        picture = _open(photo)
        blocks = share_blocks(*picture.size, rng)
        for split in SPLITS:
            patches[split] += _patches(picture, blocks[split], sizes.of(split) // len(photos), rng)
    return {
        split: Split(
            np.stack(patches[split]),
            np.repeat(np.arange(len(photos)), sizes.of(split) // len(photos)),
        )
        for split in SPLITS
    }


def _patches(
    picture: Image.Image, boxes: list[Box], count: int, rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    patches: list[NDArray[np.uint8]] = []
    attempts = 0
    while len(patches) < count:
        attempts += 1
        left, top, right, bottom = boxes[rng.integers(len(boxes))]
        side = int(rng.integers(SMALLEST, min(right - left, bottom - top) + 1))
        x = int(rng.integers(left, right - side + 1))
        y = int(rng.integers(top, bottom - side + 1))
        patch = picture.crop((x, y, x + side, y + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        light = rng.uniform(0.9, 1.1)
        if attempts < 20 * count and np.asarray(patch.convert("L")).std() < FLAT:
            continue
        patches.append((np.asarray(patch) * light).clip(0, 255).astype(np.uint8))
    return patches


def _open(photo: Photo) -> Image.Image:
    with (files(photo.package) / photo.path).open("rb") as file:
        picture = Image.open(file).convert("RGB")
    if photo in CATALOGUES["textures"]:
        picture = picture.convert("L").convert("RGB")
    scale = 512 / min(picture.size)
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    return picture
