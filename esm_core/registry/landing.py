"""Landing a fine-tune: check it, claim a number, upload, and make it visible with ``finetune.yaml``."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from esm_core.claims import claim_number, version_label
from esm_core.errors import InputError, raise_together
from esm_core.registry.checks import Checked, Landing, check_landing
from esm_core.registry.finetune import (
    FINETUNE,
    FORMAT,
    FileFacts,
    FineTune,
    newest,
    read_finetune,
    render,
    task_folder,
)
from esm_core.storage import Location

__all__ = ["Landed", "Landing", "land"]

_UPLOADS_AT_ONCE = 8
_PIECE = 1024**2


@dataclass(frozen=True)
class Landed:
    """A version of a fine-tune in the registry.

    Attributes
    ----------
    version : str
        Its label, such as ``v000003``.
    url : str
        Its folder.
    fresh : bool
        Whether it landed now; False where the newest version holds the same already.
    """

    task: str
    version: str
    url: str
    fresh: bool


def land(registry: Location, landing: Landing, force: bool = False) -> Landed:
    """Check a fine-tune and land it as the next version of its task.

    Parameters
    ----------
    registry : Location
    landing : Landing
    force : bool
        Land it although the newest version holds the same.

    Raises
    ------
    InputError
        What :func:`esm_core.registry.checks.check_landing` refuses, before anything is uploaded; or an
        input that changed while it was uploaded, whose number is then left unused.

    Notes
    -----
    Several may land at once, the same task too: each gets a version of its own. One that dies leaves a
    folder without ``finetune.yaml``, which nobody sees.
    """
    checked = check_landing(landing)
    last = newest(registry, landing.task)
    if last is not None and not force:
        current = read_finetune(registry, landing.task, last)
        place = _folder(registry, landing.task, last)
        if _is_same(current, landing, checked) and _is_intact(place, current):
            return Landed(landing.task, version_label(last), place.url, False)
    number = claim_number(task_folder(registry, landing.task)).number
    folder = _folder(registry, landing.task, number)
    files = _upload(folder, checked.uploads)
    raise_together(
        f"{place}: changed while it landed. Land it again once it is complete."
        for place, fingerprint in checked.fingerprints.items()
        if place.fingerprint() != fingerprint
    )
    finetune = FineTune(
        format=FORMAT,
        task=landing.task,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        zero_shot=landing.zero_shot,
        activation=checked.activation,
        note=landing.note,
        files=files,
        **checked.places,
    )
    if not (folder / FINETUNE).create(render(finetune)):
        raise InputError(f"{folder / FINETUNE}: was written by someone else. Land it again.")
    return Landed(landing.task, version_label(number), folder.url, True)


def _folder(registry: Location, task: str, number: int) -> Location:
    return task_folder(registry, task) / version_label(number)


def _is_same(current: FineTune, landing: Landing, checked: Checked) -> bool:
    """Whether a version says it holds what is about to land; contents are read only where sizes agree."""
    named = {
        field: place
        for field in ("checkpoint", "head", "proxy", "validation", "test")
        if (place := getattr(current, field)) is not None
    }
    said = (current.zero_shot, current.activation) == (landing.zero_shot, checked.activation)
    if not said or named != dict(checked.places) or set(current.files) != set(checked.uploads):
        return False
    return _holds(checked.uploads, current)


def _is_intact(folder: Location, landed: FineTune) -> bool:
    """Whether a version still holds what landed: one that was replaced or damaged is landed again."""
    places = {path: folder / path for path in landed.files}
    return all(place.is_file() for place in places.values()) and _holds(places, landed)


def _holds(places: Mapping[str, Location], landed: FineTune) -> bool:
    facts = landed.files
    return all(places[path].size() == facts[path].bytes for path in facts) and all(
        places[path].sha256() == facts[path].sha256 for path in facts
    )


def _upload(folder: Location, uploads: Mapping[str, Location]) -> dict[str, FileFacts]:
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        facts = pool.map(lambda path: _copy(uploads[path], folder / path), uploads)
        return dict(zip(uploads, facts, strict=True))


def _copy(source: Location, target: Location) -> FileFacts:
    digest, size = hashlib.sha256(), 0
    with source.open() as original, target.writer() as stream:
        while piece := original.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            stream.write(piece)
    return FileFacts(bytes=size, sha256=digest.hexdigest())
