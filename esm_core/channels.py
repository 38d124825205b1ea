"""Channels: names such as ``stable`` that point to a version, moved by promotion and rollback.

While a channel is moved, a lease keeps the garbage collector away from the artifact's versions.
"""

from dataclasses import dataclass

from esm_core.artifacts import Version, artifact_folder, open_version, verify_version, version_numbers
from esm_core.channel_log import Entry, append, channel_names, last_entry, read_log, stack
from esm_core.claims import version_label
from esm_core.errors import EsmergeError, InputError
from esm_core.leases import holding
from esm_core.names import check_channel, parse_version
from esm_core.storage import Location
from esm_core.store import check_store


@dataclass(frozen=True)
class Move:
    """What became of a promotion or rollback.

    Attributes
    ----------
    entry : Entry
        Where the channel points, and since when.
    moved : bool
        Whether this call wrote it; not where the channel pointed there already.
    """

    entry: Entry
    moved: bool


def promote(
    store: Location,
    name: str,
    version: str | int,
    channel: str,
    note: str | None = None,
    by: str | None = None,
) -> Move:
    """Let a channel point to a version, whose every file is verified first.

    Raises
    ------
    InputError
        No such version, or a name that no channel can have.
    IntegrityError
        A file of the version is missing or damaged. The channel stays where it is.
    """
    folder = _folder(store, name)
    _check(channel)
    open_version(store, name, version)
    with holding(store, name, [f"artifacts/{name}"]):
        found = open_version(store, name, version)
        verify_version(found)
        while True:
            last = last_entry(folder, channel)
            if last is not None and last.version == found.number:
                return Move(last, moved=False)
            number = 1 if last is None else last.number + 1
            entry = append(folder, channel, number, found.number, "promote", by, note)
            if entry is not None:
                return Move(entry, moved=True)


def rollback(
    store: Location,
    name: str,
    channel: str,
    to: str | int | None = None,
    note: str | None = None,
    by: str | None = None,
) -> Move:
    """Let a channel point to the version that it pointed to before; every file of it is verified first.

    Two rollbacks go two versions back: a rollback is no step that another one undoes. Versions that were
    deleted are passed over.

    Parameters
    ----------
    to : str or int, optional
        An earlier one of the channel's versions, instead of the one before.

    Raises
    ------
    InputError
        No such channel, nothing to go back to, or ``to`` is not one of the channel's earlier versions.
    IntegrityError
        A file of that version is missing or damaged. The channel stays where it is.
    EsmergeError
        Somebody moved the channel at the same moment.
    """
    folder = _folder(store, name)
    history(store, name, channel)
    with holding(store, name, [f"artifacts/{name}"]):
        entries = history(store, name, channel)
        last, earlier = entries[-1], rollback_targets(entries, version_numbers(store, name))
        if not earlier:
            raise InputError(
                f"{folder}: channel {channel} has no version to go back to from "
                f"{version_label(last.version)}. Promote another version instead."
            )
        target = earlier[0] if to is None else parse_version(str(to))
        if target not in earlier:
            labels = ", ".join(version_label(n) for n in earlier)
            raise InputError(
                f"{folder}: channel {channel} cannot go back to {to}: use one of {labels}, or promote it."
            )
        verify_version(open_version(store, name, target))
        entry = append(folder, channel, last.number + 1, target, "rollback", by, note)
        if entry is not None:
            return Move(entry, moved=True)
        moved = history(store, name, channel)[-1]
        raise EsmergeError(
            f"{folder}: channel {channel} was moved to {version_label(moved.version)} at the same moment. "
            "See its history, and roll back again if that is still wanted."
        )


def rollback_targets(entries: list[Entry], existing: list[int]) -> list[int]:
    """The versions that a channel can go back to, the nearest first; ``existing`` are those not deleted."""
    versions = stack(entries)
    earlier = [n for n in reversed(versions[:-1]) if n in existing and n != versions[-1]]
    return list(dict.fromkeys(earlier))


def channels(store: Location, name: str) -> dict[str, Entry]:
    """Every channel of an artifact and the entry that says where it points."""
    folder = _folder(store, name)
    found = {channel: last_entry(folder, channel) for channel in channel_names(folder)}
    return {channel: entry for channel, entry in found.items() if entry is not None}


def history(store: Location, name: str, channel: str) -> list[Entry]:
    """Every promotion and rollback of a channel, the oldest first; :class:`InputError` if there is none."""
    folder = _folder(store, name)
    _check(channel)
    entries = read_log(folder, channel)
    if not entries:
        known = ", ".join(channel_names(folder)) or "it has none"
        raise InputError(f"{folder}: has no channel {channel} (channels: {known}). Promote a version to it.")
    return entries


def channel_version(store: Location, name: str, channel: str) -> Version:
    """The version a channel points to; :class:`InputError` where there is no such channel."""
    return open_version(store, name, history(store, name, channel)[-1].version)


def _folder(store: Location, name: str) -> Location:
    check_store(store)
    return artifact_folder(store, name)


def _check(channel: str) -> None:
    try:
        check_channel(channel)
    except ValueError as error:
        raise InputError(f"channel: {error}.") from error
