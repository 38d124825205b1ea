"""An image folder: one file per image, in a subfolder per class where labelled."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from esm_core.images.base import IMAGE_SUFFIXES, ImageSource, Sample


class ImageFolder(ImageSource):
    """Image files below a folder.

    The first folder on an image's path is its class, however deep the image lies; an image directly
    in the folder has no label. Labels number the sorted class folders that hold images, so they mean
    the same as another set's only where ``class_names`` is the same.
    """

    kind = "image files"
    suffixes = IMAGE_SUFFIXES
    readable_alone = False

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return tuple(self._labels) or None

    @cached_property
    def _labels(self) -> dict[str, int]:
        names = {file.split("/", 1)[0] for file in self._files if "/" in file}
        return {name: label for label, name in enumerate(sorted(names))}

    def _list_ids(self) -> list[str]:
        return self._files

    def _read(self, ids: Sequence[str]) -> Iterator[Sample]:
        for sample_id in ids:
            label = self._labels[sample_id.split("/", 1)[0]] if "/" in sample_id else None
            yield Sample(sample_id, label, self._place(sample_id).read_bytes())
