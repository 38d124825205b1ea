"""Published versions: claim a number, write the files, commit with the manifest.

A version exists once its ``manifest.json`` does; the manifest is created only if absent and lists every
file's size and sha256. ``latest`` is the highest version with a manifest: derived, never written.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from esm_core.errors import InputError, IntegrityError
from esm_core.recipe import check_name
from esm_core.stages import FORMAT, canonical_json, check_format
from esm_core.storage import Location
from esm_core.store import check_store

MANIFEST = "manifest.json"

Manifest = dict[str, Any]
Writer = Callable[[IO[bytes]], None]


@dataclass(frozen=True)
class Version:
    """A committed version of an artifact and its manifest."""

    folder: Location
    number: int
    manifest: Manifest

    @property
    def label(self) -> str:
        return version_label(self.number)


def version_label(number: int) -> str:
    return f"v{number:06d}"


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
    return [n for n in _claimed(folder) if (folder / version_label(n) / MANIFEST).is_file()]


def open_version(store: Location, name: str, version: str | int = "latest") -> Version:
    """A committed version with its manifest, whose own bytes are verified.

    Parameters
    ----------
    version : str or int
        ``latest``, a number, or a label such as ``v000012``.

    Raises
    ------
    InputError
        No such artifact or version.
    IntegrityError
        The manifest is damaged or of a newer format.
    """
    check_store(store)
    folder = artifact_folder(store, name)
    if str(version) == "latest":
        number = next((n for n in reversed(_claimed(folder)) if _committed(folder, n)), None)
        if number is None:
            raise InputError(f"{folder}: has no published version. See the names with: ls {folder.parent}")
    else:
        match = re.fullmatch(r"v?0*(\d+)", str(version))
        if match is None:
            raise InputError(f"{version!r} is not a version: use latest, a number, or a label like v000012.")
        number = int(match[1])
        if not _committed(folder, number):
            raise InputError(f"{folder}: has no published version {version_label(number)}.")
    location = folder / version_label(number)
    return Version(location, number, _read_manifest(location / MANIFEST))


def publish_version(
    store: Location, name: str, files: Mapping[str, Writer], content: Mapping[str, Any]
) -> Version:
    """Claim the next number, write ``files`` and commit.

    Parameters
    ----------
    files : mapping of relative path to a function that writes the file's bytes to a stream
    content : mapping
        The manifest's own part, JSON values; name, version, time and files are added here.

    Notes
    -----
    Concurrent publishers each get a number of their own. A publisher that dies leaves a claimed number
    without manifest, which no reader sees.
    """
    folder = artifact_folder(store, name)
    number = _claim(folder)
    location = folder / version_label(number)
    written = {}
    for path in sorted(files):
        with (location / path).writer() as stream:
            hashing = _HashingStream(stream)
            files[path](hashing)  # type: ignore[arg-type]
        written[path] = {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": number,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
        "files": written,
    }
    if not (location / MANIFEST).create(_render(manifest)):
        raise IntegrityError(f"{location}: was committed by someone else; run again.")
    return Version(location, number, manifest)


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


def read_verified(version: Version, path: str) -> bytes:
    """The bytes of one file, which are the published ones or an :class:`IntegrityError`."""
    location = version.folder / path
    expected = version.manifest["files"].get(path)
    if expected is None:
        raise InputError(f"{version.folder}: {path} is not part of this version.")
    data = location.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise IntegrityError(f"{location}: is damaged: its sha256 is not the published one.")
    return data


def bytes_writer(data: bytes) -> Writer:
    """Writes ``data``."""

    def write(stream: IO[bytes]) -> None:
        stream.write(data)

    return write


def copy_writer(source: Location) -> Writer:
    """Writes the bytes of ``source``, in pieces."""

    def write(stream: IO[bytes]) -> None:
        with source.open() as original:
            while piece := original.read(1024**2):
                stream.write(piece)

    return write


class _HashingStream:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._stream.write(data)


def _claimed(folder: Location) -> list[int]:
    return sorted(int(n[1:]) for n in folder.children() if re.fullmatch(r"v\d{6,}", n))


def _committed(folder: Location, number: int) -> bool:
    return (folder / version_label(number) / MANIFEST).is_file()


def _claim(folder: Location) -> int:
    number = max(_claimed(folder), default=0)
    for candidate in _counting(number + 1):
        claim = canonical_json({"format": FORMAT, "claimed": datetime.now(UTC).isoformat()})
        if (folder / version_label(candidate) / "claim.json").create(claim):
            return candidate
    raise AssertionError("unreachable")


def _counting(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1


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
