"""Version numbers: each is given to one publisher, and never again, also once its version is deleted.

A number is taken by creating its ``claim.json``; exactly one of many callers succeeds. Whoever deletes a
version first notes that its number, and all below, are not given any more (``collected.json``), so a
publisher that slept meanwhile can neither take an old number nor finish what was collected.
"""

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from esm_core.errors import InputError
from esm_core.stages import FORMAT, canonical_json, read_versioned
from esm_core.storage import Location

CLAIM = "claim.json"
COLLECTED = "collected.json"

HELD = timedelta(hours=48)
"""How long a claimed number without a manifest is taken for the work of a living publisher."""


@dataclass(frozen=True)
class Claim:
    """A number that was taken, and the folder that belongs to whoever took it."""

    folder: Location
    number: int
    content: bytes

    def is_held(self) -> bool:
        """Whether the number is still this claimant's, which it is not once it was collected."""
        place = self.folder / CLAIM
        try:
            return place.read_bytes() == self.content
        except InputError:
            if place.is_file():
                raise
            return False


def version_label(number: int) -> str:
    return f"v{number:06d}"


def version_number(folder_name: str) -> int | None:
    """The number whose folder has this name; ``None`` for other names."""
    return int(folder_name[1:]) if re.fullmatch(r"v[0-9]{6,}", folder_name) else None


def claimed_numbers(artifact: Location) -> list[int]:
    """Numbers that have a folder, ascending: committed ones and those only claimed."""
    return sorted(n for name in artifact.children() if (n := version_number(name)) is not None)


def claim_number(artifact: Location) -> Claim:
    """Take the next number of an artifact's folder."""
    claim = {"format": FORMAT, "by": uuid.uuid4().hex, "claimed": datetime.now(UTC).isoformat()}
    content = canonical_json(claim)
    first = max([_collected(artifact), *claimed_numbers(artifact)]) + 1
    for number in count(first):
        folder = artifact / version_label(number)
        if (folder / CLAIM).create(content):
            if number > _collected(artifact):
                return Claim(folder, number, content)
            # Its version came and went since the numbers were listed: it is no longer given.
            (folder / CLAIM).delete()
    raise AssertionError("unreachable")


def retire_numbers(artifact: Location, highest: int) -> None:
    """Note that no number up to ``highest`` is given any more. Called before anything of it is deleted."""
    if highest > _collected(artifact):
        content = {"format": FORMAT, "facts": {"highest": highest}}
        (artifact / COLLECTED).write_bytes(canonical_json(content))


def _collected(artifact: Location) -> int:
    note = artifact / COLLECTED
    return int(read_versioned(note, "facts")["highest"]) if note.is_file() else 0
