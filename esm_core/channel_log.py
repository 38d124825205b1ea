"""The log of a channel: one small file per promotion or rollback, numbered, never changed.

The highest number says where the channel points. An entry is created only if its number is free, so of
several writers at once each gets a number of its own.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from esm_core.errors import IntegrityError
from esm_core.stages import FORMAT, canonical_json, check_format
from esm_core.storage import Location

Action = Literal["promote", "rollback"]


class Entry(BaseModel):
    """One entry of a channel's log.

    Attributes
    ----------
    number : int
        Place in the log, from 1.
    version : int
        Where the channel points from here on.
    created : str
        ISO 8601, UTC.
    by, note : str, optional
        Who, and why, where the caller said it.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    version: int
    action: Action
    created: str
    by: str | None = None
    note: str | None = None

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.created)


def channel_names(artifact: Location) -> list[str]:
    """Names of the channels below an artifact's folder that have an entry, sorted."""
    return [name for name in (artifact / "channels").children() if _numbers(artifact, name)]


def read_log(artifact: Location, channel: str) -> list[Entry]:
    """Every entry of a channel, the oldest first; none where there is no such channel."""
    return [_read(artifact, channel, number) for number in _numbers(artifact, channel)]


def last_entry(artifact: Location, channel: str) -> Entry | None:
    """The entry that says where the channel points."""
    numbers = _numbers(artifact, channel)
    return _read(artifact, channel, numbers[-1]) if numbers else None


def append(
    artifact: Location,
    channel: str,
    number: int,
    version: int,
    action: Action,
    by: str | None,
    note: str | None,
) -> Entry | None:
    """Write entry ``number``, or return ``None`` where somebody else was faster."""
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(number=number, version=version, action=action, created=created, by=by, note=note)
    content = {"format": FORMAT, **entry.model_dump(exclude={"number"})}
    return entry if _place(artifact, channel, number).create(canonical_json(content)) else None


def stack(entries: Iterable[Entry]) -> list[int]:
    """The versions that a channel went through and can go back to, the current one last.

    A promotion puts its version on top; a rollback takes versions off until its own is on top.
    """
    versions: list[int] = []
    for entry in entries:
        if entry.action == "rollback":
            while versions and versions[-1] != entry.version:
                versions.pop()
        if versions[-1:] != [entry.version]:
            versions.append(entry.version)
    return versions


def _place(artifact: Location, channel: str, number: int) -> Location:
    return artifact / "channels" / channel / f"{number:06d}.json"


def _numbers(artifact: Location, channel: str) -> list[int]:
    names = (artifact / "channels" / channel).children()
    return sorted(int(name[:-5]) for name in names if re.fullmatch(r"[0-9]{6,}\.json", name))


def _read(artifact: Location, channel: str, number: int) -> Entry:
    location = _place(artifact, channel, number)
    try:
        content = json.loads(location.read_bytes())
        version = int(content["format"])
        entry = Entry.model_validate({**content, "number": number}) if version <= FORMAT else None
        if entry is not None and entry.time.tzinfo is None:
            raise ValueError("its time has no time zone")
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise IntegrityError(
            f"{location}: is damaged: not an entry of a channel. Put it back from a backup, or delete it."
        ) from error
    check_format(location, version)
    assert entry is not None
    return entry
