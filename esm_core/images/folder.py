"""An image folder: one file per image, in a subfolder per class where labelled."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from esm_core.errors import InputError
from esm_core.images.base import IMAGE_SUFFIXES, MAX_BYTES, ImageSource, Sample, too_large


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
            yield Sample(sample_id, label, self._data(sample_id))

    def _data(self, sample_id: str) -> bytes:
        place = self._place(sample_id)
        if place.is_local:
            size = place.size()
            if size > MAX_BYTES:
                raise too_large(self.location, sample_id, size)
            return place.read_bytes()
        try:
            # One request: to ask for the size first would make it two.
            data = place.read_bytes(0, MAX_BYTES + 1)
        except InputError:
            # S3 has no range of an empty object.
            if not place.is_file() or place.size():
                raise
            return b""
        if len(data) > MAX_BYTES:
            raise too_large(self.location, sample_id)
        return data
