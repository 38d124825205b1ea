"""What every image source is: samples, found by a listing and read on demand."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from esm_core.errors import InputError
from esm_core.storage import Location

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff", "ppm")

MAX_BYTES = 256 * 2**20
"""Largest encoded image that is read, in bytes; a photograph has a hundredth of it."""


@dataclass(frozen=True)
class Sample:
    """One image as it is stored.

    Parameters
    ----------
    id : str
        Name within its source, the same wherever the source is copied to.
    label : int or None
        Class index, where the source has one.
    data : bytes
        The encoded image (JPEG, PNG, ...), untouched.
    """

    id: str
    label: int | None
    data: bytes = field(repr=False)


class ImageSource(ABC):
    """Images of one location. Made by :func:`esm_core.images.open_images`; can be pickled.

    The listing is made once per instance. A subclass says what files it reads (``kind``,
    ``suffixes``) and how (``_list_ids``, ``_read``).

    Parameters
    ----------
    location : Location
        What the user gave: a folder or a file.
    root : Location
        The folder that ``files`` are relative to.
    files : Sequence[str]
        Relative paths of the files of this kind.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    readable_alone: ClassVar[bool] = True
    """Whether one file of this kind is a source of its own, not only a folder of them."""

    def __init__(self, location: Location, root: Location, files: Sequence[str]) -> None:
        self.location = location
        self._root = root
        self._files = sorted(files)

    @classmethod
    def reads(cls, name: str) -> bool:
        """Whether a file of this name is one of this kind; hidden files are not."""
        return not is_hidden(name) and name.lower().endswith(tuple(f".{s}" for s in cls.suffixes))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in label order; ``None`` where the source does not name its classes."""
        return None

    def sample_ids(self) -> list[str]:
        """Every sample's id, sorted. Reads names, headers and footers, never an image.

        Raises
        ------
        InputError
            There is no image, or a file cannot be read as what its name says.
        TransientStorageError
            Storage failed for now.
        """
        if not self._ids:
            raise no_images(self.location)
        return list(self._ids)

    def read(self, ids: Sequence[str]) -> Iterator[Sample]:
        """The samples asked for, in the order asked.

        Raises
        ------
        InputError
            At once for an id the source does not have; while iterating, for what cannot be read.
        TransientStorageError
            Storage failed for now.
        """
        known = set(self._ids)
        for sample_id in ids:
            if sample_id not in known:
                raise InputError(
                    f"{self.location}: has no image {sample_id!r}; was it removed since the images were "
                    "chosen?"
                )
        return self._read(ids)

    def read_all(self) -> Iterator[Sample]:
        """Every sample, in an order that depends on the content only; few are held at a time.

        Raises
        ------
        InputError
            At once where there is no image; while iterating, for what cannot be read.
        TransientStorageError
            Storage failed for now.
        """
        self.sample_ids()
        return self._read_all()

    @cached_property
    def _ids(self) -> list[str]:
        return sorted(self._list_ids())

    def _place(self, file: str) -> Location:
        return self._root / file

    @abstractmethod
    def _list_ids(self) -> list[str]:
        """Every sample's id, in any order."""

    @abstractmethod
    def _read(self, ids: Sequence[str]) -> Iterator[Sample]:
        """The samples of these ids, all known to exist, in this order."""

    def _read_all(self) -> Iterator[Sample]:
        return self._read(self._ids)


def is_hidden(name: str) -> bool:
    """Whether any part of a relative path starts with a dot (``.git/``, macOS's ``._a.jpg``)."""
    return any(part.startswith(".") for part in name.split("/"))


def as_label(value: int | None, location: Location, sample_id: str) -> int | None:
    """A stored class index as a label; -1 is how published datasets write "not given".

    Raises
    ------
    InputError
        For another negative number.
    """
    if value is None or value == -1:
        return None
    if value < 0:
        raise InputError(f"{location}: image {sample_id!r} has label {value}; labels count from 0.")
    return value


def too_large(location: Location, what: str, size: int | None = None) -> InputError:
    """The error for an encoded image that nobody would call one."""
    has = f"has {size} bytes" if size is not None else f"has more than {MAX_BYTES} bytes"
    return InputError(f"{location}: image {what!r} {has}; at most {MAX_BYTES} are read. Shrink or remove it.")


def no_images(
    location: Location | str, looked_for: str = f"{', '.join(IMAGE_SUFFIXES)} images"
) -> InputError:
    """The error for a place without images."""
    return InputError(f"{location}: holds no images (looked for {looked_for}).")
