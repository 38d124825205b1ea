"""Published versions: claim a number, write the files, commit with the manifest.

A version exists once its ``manifest.json`` does; the manifest is created only if absent and lists every
file's size and sha256. ``latest`` is the highest version with a manifest: derived, never written.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, TypeVar

from esm_core.channel_log import channel_names, last_entry
from esm_core.claims import claim_number, claimed_numbers, version_label
from esm_core.errors import EsmergeError, InputError, IntegrityError
from esm_core.names import check_channel, check_name, parse_version
from esm_core.stages import FORMAT, canonical_json, check_format
from esm_core.storage import Location
from esm_core.store import check_store
from esm_core.writers import Writer as Writer
from esm_core.writers import bytes_writer as bytes_writer
from esm_core.writers import copy_writer as copy_writer
from esm_core.writers import write_all

MANIFEST = "manifest.json"

_PIECE = 8 * 2**20

Manifest = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """A committed version of an artifact and its manifest."""

    folder: Location
    number: int
    manifest: Manifest

    @property
    def label(self) -> str:
        return version_label(self.number)


def artifact_folder(store: Location, name: str) -> Location:
    """Where the versions of ``name`` are; :class:`InputError` for a name that could leave its folder."""
    try:
        return store / "artifacts" / check_name(name)
    except ValueError as error:
        raise InputError(f"{error}.") from error


def version_numbers(store: Location, name: str) -> list[int]:
    """Numbers of the committed versions, ascending."""
    check_store(store)
    folder = artifact_folder(store, name)
    return [n for n in claimed_numbers(folder) if _committed(folder, n)]


def open_version(store: Location, name: str, version: str | int = "latest") -> Version:
    """A committed version with its manifest, whose own bytes are verified.

    Parameters
    ----------
    version : str or int
        ``latest``, a number, a label such as ``v000012``, or a channel such as ``stable``.

    Raises
    ------
    InputError
        No such artifact, version or channel.
    IntegrityError
        The manifest is damaged or of a newer format.
    """
    check_store(store)
    folder = artifact_folder(store, name)
    if str(version) == "latest":
        return _open_latest(folder)
    number, pointing = parse_version(str(version)), ""
    if number is None:
        number, pointing = _channel_version(folder, str(version)), f", where channel {version} points"
    if not _committed(folder, number):
        raise InputError(f"{folder}: has no published version {version_label(number)}{pointing}.")
    return _open(folder, number)


def published_versions(store: Location, name: str) -> list[Version]:
    """The committed versions, ascending; one that the garbage collector takes meanwhile is left out."""
    found = []
    for number in version_numbers(store, name):
        try:
            found.append(open_version(store, name, number))
        except InputError:
            if _committed(artifact_folder(store, name), number):
                raise
    return found


def read_version(store: Location, name: str, version: str | int, read: Callable[[Version], T]) -> T:
    """What ``read`` makes of a version that :func:`open_version` finds.

    Where ``latest`` or a channel moved on and the garbage collector took the version while it was read,
    the one that is meant by now is read instead.
    """
    while True:
        found = open_version(store, name, version)
        try:
            return read(found)
        except InputError:
            collected = not (found.folder / MANIFEST).is_file()
            if parse_version(str(version)) is not None or not collected:
                raise


def publish_version(
    store: Location,
    name: str,
    files: Mapping[str, Writer],
    content: Mapping[str, Any],
    last: Callable[[Manifest], Mapping[str, Writer]] = lambda manifest: {},
) -> Version:
    """Claim the next number, write ``files`` and commit.

    Parameters
    ----------
    files : mapping of relative path to a function that writes the file's bytes to a stream
    content : mapping
        The manifest's own part, JSON values; name, version, time and files are added here.
    last : callable
        The manifest as far as it is known once ``files`` are written → files that are made of it.

    Notes
    -----
    Concurrent publishers each get a number of their own. A publisher that dies leaves a claimed number
    without manifest, which no reader sees.

    Raises
    ------
    EsmergeError
        Publishing took so long that the garbage collector took the number. Nothing is committed then.
    """
    claim = claim_number(artifact_folder(store, name))
    location = claim.folder
    written = write_all(location, files)
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": claim.number,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
        "files": written,
    }
    manifest["files"] = dict(sorted((written | write_all(location, last(manifest))).items()))
    if not claim.is_held():
        raise EsmergeError(
            f"{location}: was not published: gc took it for abandoned, since it was claimed long ago and had "
            "no manifest. Run again; it gets the next number."
        )
    if not (location / MANIFEST).create(_render(manifest)):
        raise IntegrityError(f"{location}: was committed by someone else; run again.")
    return Version(location, claim.number, manifest)


def verify_version(version: Version) -> None:
    """Read every file of a version and compare it with the manifest.

    Raises
    ------
    IntegrityError
        Names every file that is missing, or whose size or sha256 differs.
    """
    problems = []
    for path, expected in sorted(version.manifest["files"].items()):
        location = version.folder / path
        if not location.is_file():
            problems.append(f"{location}: is missing.")
        elif (size := location.size()) != expected["bytes"]:
            problems.append(f"{location}: has {size} bytes, but {expected['bytes']} were published.")
        elif location.sha256() != expected["sha256"]:
            problems.append(f"{location}: is damaged: its sha256 is not the published one.")
    if problems:
        raise IntegrityError(*problems)


def read_verified(version: Version, path: str) -> bytearray:
    """The bytes of one file, which are the published ones or an :class:`IntegrityError`.

    A thread makes their sha256 while the next ones are read.
    """
    location = version.folder / path
    expected = version.manifest["files"].get(path)
    if expected is None:
        raise InputError(f"{version.folder}: {path} is not part of this version.")
    data, digest = bytearray(expected["bytes"]), hashlib.sha256()
    with location.open() as stream, memoryview(data) as view, ThreadPoolExecutor(1) as hashing:
        for start in range(0, len(data), _PIECE):
            piece = view[start : start + _PIECE]
            if _fill(stream, piece) < len(piece):
                break
            hashing.submit(digest.update, piece)
        more = stream.read(1)
    if more or digest.hexdigest() != expected["sha256"]:
        raise IntegrityError(f"{location}: is damaged: its sha256 is not the published one.")
    return data


def _fill(stream: IO[bytes], piece: memoryview) -> int:
    filled = 0
    while filled < len(piece) and (count := stream.readinto(piece[filled:])):  # type: ignore[attr-defined]
        filled += count
    return filled


def _committed(folder: Location, number: int) -> bool:
    return (folder / version_label(number) / MANIFEST).is_file()


def _open(folder: Location, number: int) -> Version:
    location = folder / version_label(number)
    return Version(location, number, _read_manifest(location / MANIFEST))


def _open_latest(folder: Location) -> Version:
    claimed = claimed_numbers(folder)
    while True:
        for number in reversed(claimed):
            if _committed(folder, number):
                try:
                    return _open(folder, number)
                except InputError:
                    if _committed(folder, number):
                        raise
        # Versions come and go while they are looked through: only an unchanged listing says there is none.
        listed, claimed = claimed, claimed_numbers(folder)
        if claimed == listed:
            raise InputError(f"{folder}: has no published version. See the names with: ls {folder.parent}")


def _channel_version(folder: Location, channel: str) -> int:
    try:
        entry = last_entry(folder, check_channel(channel))
    except ValueError:
        entry = None
    if entry is not None:
        return entry.version
    known = channel_names(folder)
    raise InputError(
        f"{channel!r} is not a version of {folder.name}, and not one of its channels "
        f"({', '.join(known) or 'it has none'}): use latest, a number, a label like v000012, or a channel."
    )


def _render(manifest: Manifest) -> bytes:
    digest = hashlib.sha256(canonical_json(manifest)).hexdigest()
    return (json.dumps({**manifest, "digest": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(location: Location) -> Manifest:
    data = location.read_bytes()
    try:
        manifest = json.loads(data)
        version = int(manifest["format"])
        manifest.pop("digest", None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{location}: is damaged: not a manifest.") from error
    check_format(location, version)
    if _render(manifest) != data:
        raise IntegrityError(f"{location}: is damaged: its content does not match its own digest.")
    return dict(manifest)
