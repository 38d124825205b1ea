"""What every image source does."""

import copy
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from esm_core.errors import InputError
from esm_core.images import ImageSource, open_images
from esm_core.images.decode import decode
from esm_core.storage import Location

Pixels = NDArray[np.uint8]


class ImageSourceTests:
    """Subclass it with the class of the source, and a way to write images as it reads them::

        class TestNpz(ImageSourceTests):
            source = NpzImages

            def write(self, folder, images, labels):
                ...
                return folder / "images.npz"

    Override the fixture ``folder`` to run everything on S3.

    Attributes
    ----------
    source : type
    labelled : bool
        Whether the source has labels.
    damage : float
        The share of a file that is left when it is cut short.
    """

    source: ClassVar[type[ImageSource]]
    labelled: ClassVar[bool] = True
    damage: ClassVar[float] = 0.5

    def write(self, folder: Location, images: Sequence[Pixels], labels: Sequence[int]) -> Location:
        """Write ``[H, W, 3]`` images without loss and their labels below a folder; what a recipe names."""
        raise NotImplementedError

    def opened(self, location: Location) -> ImageSource:
        """The source there; for one that is not installed where the tests run, made by hand."""
        found = open_images(location)
        assert isinstance(found, self.source)
        return found

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Location:
        return Location.parse(str(tmp_path)) / "images"

    @pytest.fixture
    def images(self) -> list[Pixels]:
        random = np.random.default_rng(0)
        return [random.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(5)]

    @pytest.fixture
    def location(self, folder: Location, images: list[Pixels]) -> Location:
        return self.write(folder, images, [0, 1, 2, 1, 0])

    def test_ids_are_sorted_unique_and_the_same_again(self, location: Location) -> None:
        ids = self.opened(location).sample_ids()
        assert len(ids) == 5
        assert ids == sorted(set(ids)) == self.opened(location).sample_ids()

    def test_ids_and_content_are_the_same_where_the_source_is_copied_to(
        self, folder: Location, images: list[Pixels], location: Location
    ) -> None:
        copy = self.write(folder.parent / "copy", images, [0, 1, 2, 1, 0])
        assert list(self.opened(copy).read_all()) == list(self.opened(location).read_all())

    def test_pixels_and_labels_are_those_that_were_written(
        self, location: Location, images: list[Pixels]
    ) -> None:
        found = list(self.opened(location).read_all())
        shown = [(np.asarray(decode(sample, location)).tobytes(), sample.label) for sample in found]
        labels = [0, 1, 2, 1, 0] if self.labelled else [None] * 5
        expected = [(image.tobytes(), label) for image, label in zip(images, labels, strict=True)]
        assert sorted(shown, key=str) == sorted(expected, key=str)

    def test_samples_are_read_in_the_order_asked_for_and_more_than_once(self, location: Location) -> None:
        source = self.opened(location)
        by_id = {sample.id: sample for sample in source.read_all()}
        assert sorted(by_id) == source.sample_ids()
        asked = [*reversed(source.sample_ids()), source.sample_ids()[0]]
        assert list(source.read(asked)) == [by_id[sample_id] for sample_id in asked]

    def test_a_sample_that_is_not_there_is_refused_at_once(self, location: Location) -> None:
        with pytest.raises(InputError, match="no image 'nobody'"):
            self.opened(location).read(["nobody"])

    def test_a_source_can_be_sent_to_another_process(self, location: Location) -> None:
        source = self.opened(location)
        assert pickle.dumps(source)
        assert list(copy.deepcopy(source).read_all()) == list(source.read_all())

    def test_a_file_that_is_cut_short_is_refused_and_named(self, location: Location) -> None:
        file = location if location.is_file() else location / location.files()[0]
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * self.damage)])
        self._is_refused(location, file)

    def test_a_file_of_something_else_is_refused_and_named(self, location: Location) -> None:
        file = location if location.is_file() else location / location.files()[0]
        file.write_bytes(b"<html>Not found</html>")
        self._is_refused(location, file)

    def _is_refused(self, location: Location, file: Location) -> None:
        with pytest.raises(InputError, match=re.escape(file.name)):
            self._decode_all(location)

    def _decode_all(self, location: Location) -> None:
        for sample in self.opened(location).read_all():
            decode(sample, location)
