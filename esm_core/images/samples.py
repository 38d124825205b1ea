"""Which samples are used, and the digest that says which they were."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from esm_core.errors import InputError
from esm_core.images.base import Sample, no_images
from esm_core.storage import Location


def choose_samples(
    ids: Sequence[str], count: int, seed: int, location: Location | str = "proxy images"
) -> list[str]:
    """Choose ``count`` of the ids at random, the same ones everywhere for the same ids and seed.

    Parameters
    ----------
    ids : Sequence[str]
        Sample ids, in any order.
    count : int
        How many to choose, at least one.
    seed : int
        Another seed gives another choice. For one seed, a larger count only adds samples.
    location : Location or str
        Where the ids are from, for the error message.

    Returns
    -------
    list[str]
        The chosen ids, sorted.

    Raises
    ------
    InputError
        There are fewer ids than asked for.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not ids:
        raise no_images(location)
    if len(ids) < count:
        raise InputError(
            f"{location}: holds {len(ids)} images, but {count} proxy samples were asked for; add images or "
            "lower `samples`."
        )

    # A random generator's stream may change between library versions; a hash cannot.
    def rank(sample_id: str) -> tuple[bytes, str]:
        text = f"{seed}\0{sample_id}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest(), sample_id

    return sorted(sorted(ids, key=rank)[:count])


def samples_digest(samples: Iterable[Sample]) -> str:
    """Identity of the samples: sha256 over every id, label and sha256 of the image bytes, in order.

    Holds one sample at a time.
    """
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample_row(sample))
    return digest.hexdigest()


def sample_row(sample: Sample) -> bytes:
    """What :func:`samples_digest` holds of one sample: a line with id, label and sha256 of the bytes."""
    row = [sample.id, sample.label, hashlib.sha256(sample.data).hexdigest()]
    return json.dumps(row).encode("ascii") + b"\n"
