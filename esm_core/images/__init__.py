"""Images from an image folder, webdataset tar shards, Parquet files or what an extension reads, local or S3.

:func:`open_images` finds out which it is. A kind of source is one module of this package with a subclass of
:class:`ImageSource`. Modules of other distributions are found by entry points (:mod:`esm_core.extensions`,
docs/extending.md), and asked about places where none of these finds an image.
"""

import inspect
from collections.abc import Iterable, Sequence
from types import ModuleType

from esm_core.errors import ExtensionError, InputError
from esm_core.extensions import installed, load, modules_of
from esm_core.images.base import ImageSource, Sample, is_hidden, no_images
from esm_core.images.folder import ImageFolder
from esm_core.images.samples import choose_samples, sample_row, samples_digest
from esm_core.storage import Location

__all__ = ["ImageSource", "Sample", "choose_samples", "open_images", "sample_row", "samples_digest"]

Sources = Sequence[type[ImageSource]]


def sources_in(module: ModuleType) -> list[type[ImageSource]]:
    """The image sources that a module defines, in alphabetical order.

    Raises
    ------
    ExtensionError
        One of them lacks ``kind``, ``suffixes``, ``_list_ids`` or ``_read``.
    """
    found = []
    for name, item in sorted(vars(module).items()):
        own = isinstance(item, type) and item.__module__ == module.__name__
        if not own or not issubclass(item, ImageSource) or item is ImageSource:
            continue
        lacks = [what for what in ("kind", "suffixes") if not getattr(item, what, ())]
        lacks += sorted(item.__abstractmethods__) if inspect.isabstract(item) else []
        if lacks:
            raise ExtensionError(f"{module.__name__}.{name}: lacks {', '.join(lacks)} of an image source.")
        found.append(item)
    return found


_SOURCES: Sources = [
    source for module in modules_of(__name__, __path__).values() for source in sources_in(module)
]


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
    files = None
    if not location.is_file():
        files = [file for file in location.files() if not is_hidden(file)]
    found = _open(location, files, _SOURCES)
    if found is not None:
        return found
    if not files and files is not None and not location.is_dir():
        raise InputError(f"{location}: no such file or folder; images were expected there.")
    others = _installed()
    found = _open(location, files, others)
    if found is not None:
        return found
    if files is None:
        raise _no_source(location, [*_SOURCES, *others])
    raise no_images(location, _described([*_SOURCES, *others]))


def _open(location: Location, files: Sequence[str] | None, sources: Sources) -> ImageSource | None:
    """The source of one of these kinds in a folder with these files, or of a file by itself."""
    root = location
    if files is None:
        root, files = location.parent, [location.name]
        sources = [source for source in sources if source.readable_alone]
    found = {source: held for source in sources if (held := [f for f in files if source.reads(f)])}
    if len(found) > 1:
        kinds = " and ".join(f"{source.kind} ({held[0]})" for source, held in found.items())
        raise InputError(
            f"{location}: holds {kinds}, and which are meant is not clear. Give a folder that holds "
            f"one kind, or one {_alone(sources)} file."
        )
    return next((source(location, root, held) for source, held in found.items()), None)


def _installed() -> Sources:
    """The sources of other distributions.

    Raises
    ------
    ExtensionError
        One cannot be loaded, or has none.
    """
    found: list[type[ImageSource]] = []
    for point in installed("esmerge.images").values():
        extension = load(point)
        own = sources_in(extension.module)
        if not own:
            raise ExtensionError(f"{extension.code}: {extension.module.__name__} has no image source in it.")
        found += own
    return found


def _no_source(location: Location, sources: Sources) -> InputError:
    if ImageFolder.reads(location.name):
        return InputError(f"{location}: is a single image; give the folder that holds it.")
    return InputError(
        f"{location}: is neither an image folder nor a {_alone(sources)} file (a compressed tar must be "
        "decompressed first)."
    )


def _alone(sources: Iterable[type[ImageSource]]) -> str:
    """``.npz, .parquet or .tar``: what can be given by itself."""
    alone = [source for source in sources if source.readable_alone]
    *first, last = sorted(f".{suffix}" for source in alone for suffix in source.suffixes)
    return f"{', '.join(first)} or {last}" if first else last


def _described(sources: Sources) -> str:
    folder = [source for source in sources if not source.readable_alone]
    others = [source for source in sources if source.readable_alone]
    files = [f"{', '.join(source.suffixes)} files" for source in folder]
    return ", ".join(files + [f"{s.kind} (.{', .'.join(s.suffixes)})" for s in others])
