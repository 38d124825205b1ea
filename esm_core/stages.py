"""Identity and completion of a stage: a sha256 names its folder, a marker written last completes it.

A stage is done when its marker exists, and nothing else decides it. The digest covers everything that
determines the output, so a folder never holds the result of other settings.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from esm_core.errors import IntegrityError, NewerFormatError
from esm_core.storage import Location

FORMAT = 1
MARKER = "complete.json"


def canonical_json(value: Any) -> bytes:
    """The one JSON text of ``value`` (sorted keys, no spaces), refusing NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(stage: str, identity: Mapping[str, Any]) -> str:
    """sha256 (hex) over the stage's name, the format version and everything that determines it."""
    content = {"stage": stage, "format": FORMAT, "identity": identity}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def write_marker(folder: Location, facts: Mapping[str, Any]) -> None:
    """Complete the stage in ``folder``. Call last, when every other byte is written."""
    (folder / MARKER).write_bytes(canonical_json({"format": FORMAT, "facts": facts}))


def is_complete(folder: Location) -> bool:
    return (folder / MARKER).is_file()


def read_marker(folder: Location) -> dict[str, Any]:
    """The facts written with the marker of ``folder``.

    Raises
    ------
    IntegrityError
        The marker is damaged or of a newer format.
    InputError
        There is no marker: the stage is not complete.
    """
    return read_versioned(folder / MARKER, "facts")


def read_versioned(location: Location, key: str) -> dict[str, Any]:
    """The mapping under ``key`` of a small versioned JSON file of the store."""
    try:
        content = json.loads(location.read_bytes())
        version = int(content["format"])
        value = content[key] if version <= FORMAT else {}
        if not isinstance(value, dict):
            raise TypeError(f"{key} is not a mapping")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(
            f"{location}: is damaged (not the JSON that esmerge writes). Delete it and run again."
        ) from error
    check_format(location, version)
    return value


def check_format(location: Location, version: int, known: int = FORMAT) -> None:
    """Refuse a file of the store that a newer esmerge wrote; ``known`` is the latest format of its kind."""
    if version > known:
        raise NewerFormatError(
            f"{location}: was written in format {version}, but this esmerge reads up to {known}. "
            "Upgrade esmerge."
        )
