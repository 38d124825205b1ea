"""Images from an image folder, webdataset tar shards or Parquet files, local or on S3.

:func:`open_images` finds out which it is. A further kind of source is one module with a subclass of
:class:`ImageSource`, listed in ``_SOURCES`` below.
"""

from esm_core.errors import InputError
from esm_core.images.base import ImageSource, Sample, is_hidden, no_images
from esm_core.images.folder import ImageFolder
from esm_core.images.parquet import ParquetImages
from esm_core.images.samples import choose_samples, sample_row, samples_digest
from esm_core.images.webdataset import WebDataset
from esm_core.storage import Location

__all__ = ["ImageSource", "Sample", "choose_samples", "open_images", "sample_row", "samples_digest"]

_SOURCES: tuple[type[ImageSource], ...] = (ImageFolder, WebDataset, ParquetImages)


def open_images(location: Location) -> ImageSource:
    """The image source at a location, by what is there: names are listed, no file is read.

    Raises
    ------
    InputError
        Nothing is there, it holds no images, it holds more than one kind of them, or it is a single
        file of another kind.
    TransientStorageError
        Storage failed for now.
    """
    if location.is_file():
        return _open_file(location)
    files = [file for file in location.files() if not is_hidden(file)]
    found = {source: held for source in _SOURCES if (held := [f for f in files if source.reads(f)])}
    if len(found) > 1:
        kinds = " and ".join(f"{source.kind} ({held[0]})" for source, held in found.items())
        raise InputError(
            f"{location}: holds {kinds}, and which are meant is not clear. Give a folder that holds "
            "one kind, or one .tar or .parquet file."
        )
    for source, held in found.items():
        return source(location, location, held)
    if not location.is_dir():
        raise InputError(f"{location}: no such file or folder; images were expected there.")
    raise no_images(location)


def _open_file(location: Location) -> ImageSource:
    for source in _SOURCES:
        if source.readable_alone and source.reads(location.name):
            return source(location, location.parent, [location.name])
    if ImageFolder.reads(location.name):
        raise InputError(f"{location}: is a single image; give the folder that holds it.")
    raise InputError(
        f"{location}: is neither an image folder nor a .tar or .parquet file (a compressed tar must be "
        "decompressed first)."
    )
