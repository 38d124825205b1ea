"""Small published versions, for tests of what happens around them."""

import random
from typing import Any

from esm_core.artifacts import Version, bytes_writer, publish_version
from esm_core.storage import Location


def make_version(store: Location, name: str = "pets", seed: int = 0, **content: Any) -> Version:
    """Publish a version whose two files both begin with its seed, so that a mixed one can be told."""
    head = seed.to_bytes(4, "big")
    files = {
        path: bytes_writer(head + random.Random(seed).randbytes(2000)) for path in ("model/a", "model/b")
    }
    return publish_version(store, name, files, {"seed": seed, **content})


def digest(seed: int) -> str:
    """A name such as stages have."""
    return f"{seed:064x}"
