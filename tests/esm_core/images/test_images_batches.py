"""Batches of preprocessed images."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esm_core.errors import InputError
from esm_core.images import Sample, open_images
from esm_core.images.batches import image_batches
from esm_core.storage import Location

PLACE = Location("s3://pets/proxy")


def to_tensor(image):
    """Stands in for open_clip's preprocess."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def samples(make_image):
    return [Sample(f"{i}.png", i if i % 2 else None, make_image(i)) for i in range(9)]


def test_images_become_one_tensor_per_batch(samples):
    batches = list(image_batches(samples, PLACE, to_tensor, 4))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 10, 12), (4, 3, 10, 12), (1, 3, 10, 12)]
    assert all(images.dtype == torch.float32 for images, _ in batches)
    assert [label for _, labels in batches for label in labels] == [s.label for s in samples]


@given(batch_size=st.integers(1, 12))
def test_the_batch_size_does_not_change_the_tensors(samples, batch_size):
    one_by_one = torch.cat([images for images, _ in image_batches(samples, PLACE, to_tensor, 1)])
    batched = torch.cat([images for images, _ in image_batches(samples, PLACE, to_tensor, batch_size)])
    assert torch.equal(batched, one_by_one)


def test_half_precision_from_the_preprocess_becomes_float32(samples):
    [(images, _)] = image_batches(samples[:2], PLACE, lambda image: to_tensor(image).half(), 2)
    assert images.dtype == torch.float32


def test_no_more_than_a_batch_is_held(samples):
    made = []

    def watched(image):
        made.append(weakref.ref(tensor := to_tensor(image)))
        return tensor

    for images, _ in image_batches(iter(samples * 4), PLACE, watched, 3):
        assert len(images) == 3
        assert not any(ref() is not None for ref in made)
    assert len(made) == 36


def test_nothing_is_read_ahead(samples):
    taken = []
    batches = image_batches((taken.append(s.id) or s for s in samples), PLACE, to_tensor, 2)
    assert taken == []
    next(batches)
    assert len(taken) == 2


def test_no_samples_make_no_batch():
    assert list(image_batches([], PLACE, to_tensor, 2)) == []


def test_a_corrupt_image_of_a_source_is_named(tmp_path, write_files, make_image):
    place = write_files(tmp_path, {"cat/good.png": make_image(), "cat/torn.png": make_image()[:80]})
    with pytest.raises(InputError, match=rf"{place}: image 'cat/torn.png' cannot be decoded"):
        list(image_batches(open_images(place).read_all(), place, to_tensor, 8))


def test_a_preprocess_that_does_not_resize_is_refused(make_image):
    samples = [Sample("a", None, make_image()), Sample("b", None, make_image(size=(5, 5)))]
    with pytest.raises(InputError, match=r"image 'b' has shape \[3, 5, 5\] .* the first image \[3, 10, 12\]"):
        list(image_batches(samples, PLACE, to_tensor, 2))


def test_a_batch_size_of_none_is_a_mistake(samples):
    with pytest.raises(ValueError, match="batch_size"):
        image_batches(samples, PLACE, to_tensor, 0)
