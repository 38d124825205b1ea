"""Batches of preprocessed images."""

from collections.abc import Callable, Iterable, Iterator

import torch
from PIL import Image

from esm_core.errors import InputError
from esm_core.images.base import Sample
from esm_core.images.decode import decode
from esm_core.storage import Location


def image_batches(
    samples: Iterable[Sample],
    location: Location,
    preprocess: Callable[[Image.Image], torch.Tensor],
    batch_size: int,
) -> Iterator[tuple[torch.Tensor, list[int | None]]]:
    """Decode, preprocess and stack samples; at most one batch is held at a time.

    Parameters
    ----------
    samples : Iterable[Sample]
        Consumed one by one.
    location : Location
        Where the samples are from, for error messages.
    preprocess : Callable
        RGB image to tensor [3, H, W], the same H and W for every image (open_clip's preprocess is one).
    batch_size : int
        Images per batch, at least one; the last batch may hold fewer.

    Yields
    ------
    tuple[torch.Tensor, list[int | None]]
        float32 [B, 3, H, W], and the B labels.

    Raises
    ------
    InputError
        A sample cannot be decoded (see :func:`esm_core.images.decode.decode`), or its preprocessed
        size is not that of the first. The message names location and sample.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _batches(samples, location, preprocess, batch_size)


def _batches(
    samples: Iterable[Sample],
    location: Location,
    preprocess: Callable[[Image.Image], torch.Tensor],
    batch_size: int,
) -> Iterator[tuple[torch.Tensor, list[int | None]]]:
    shape: torch.Size | None = None
    pixels: list[torch.Tensor] = []
    labels: list[int | None] = []
    for sample in samples:
        # Straight into the list: a name would keep the image alive beside the stacked batch.
        pixels.append(preprocess(decode(sample, location)).to(torch.float32))
        shape = shape or pixels[-1].shape
        if pixels[-1].shape != shape or len(shape) != 3 or shape[0] != 3:
            raise InputError(
                f"{location}: image {sample.id!r} has shape {list(pixels[-1].shape)} after preprocessing, "
                f"the first image {list(shape)}; one shape [3, height, width] was expected. Preprocess to a "
                "fixed size."
            )
        labels.append(sample.label)
        if len(pixels) == batch_size:
            yield _stacked(pixels), labels
            labels = []
    if pixels:
        yield _stacked(pixels), labels


def _stacked(pixels: list[torch.Tensor]) -> torch.Tensor:
    """The images as one tensor, emptying the list so that they are not held twice."""
    batch = torch.stack(pixels)
    pixels.clear()
    return batch
