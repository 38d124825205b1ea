"""Which images belong to which task, by the names of folders and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esm_core.draft.words import image_key, is_role, role_of
from esm_core.errors import InputError
from esm_core.images import open_images
from esm_core.images.base import IMAGE_SUFFIXES
from esm_core.storage import Location

_ARCHIVES = (".tar", ".parquet")
_IMAGES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
_PREFERRED = ("proxy", "train", "")
"""Roles of images that can be proxies, the best first: labels are not used."""


@dataclass(frozen=True)
class FoundImages:
    """A source of images: a folder, tar or Parquet file; how many, and the classes if they are named."""

    path: str
    location: Location
    count: int
    classes: int | None


def images_of_tasks(files: Sequence[str], keys: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """Task → role (``proxy``, ``train``, ``validation``, ``test`` or empty) → images named for the task.

    Parameters
    ----------
    files : sequence of str
        Every file.
    keys : mapping of task to set of str
        What a folder or file of its images may be called; see :func:`esm_core.draft.words.image_key`.
    """
    all_keys = [key for own in keys.values() for key in own]
    owners = {key: task for task, own in keys.items() for key in own if key and all_keys.count(key) == 1}
    places: dict[str, dict[str, set[str]]] = {task: {} for task in keys}
    for file in files:
        if file.lower().endswith((*_IMAGES, *_ARCHIVES)) and (place := _place(file, owners)):
            places[place[0]].setdefault(place[1], set()).add(place[2])
    chosen = {task: {r: _one(paths, files) for r, paths in roles.items()} for task, roles in places.items()}
    return {task: _without_overlap(roles) for task, roles in chosen.items()}


def look_at_images(root: Location, path: str) -> FoundImages:
    """The images at a path; :class:`InputError` where there are none, or of several kinds."""
    source = open_images(root / path)
    names = source.class_names
    return FoundImages(path, source.location, len(source.sample_ids()), len(names) if names else None)


def proxy_role(roles: Mapping[str, str]) -> str | None:
    """The role whose images serve as proxies; None where there are none that can."""
    return next((role for role in _PREFERRED if role in roles), None)


def _place(file: str, owners: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Task, role and path of an image's file: the outermost thing named for a task, and what it is for."""
    parts = file.split("/")
    archive = file.lower().endswith(_ARCHIVES)
    named = [*parts[:-1], parts[-1].rpartition(".")[0]] if archive else parts[:-1]
    for index, name in enumerate(named):
        task = owners.get(image_key(name))
        if task is None:
            continue
        role, end = role_of(name), index
        if not role:
            below = [d for d in range(index + 1, len(named)) if is_role(named[d])]
            if below:
                role, end = role_of(named[below[0]]), below[0]
            else:
                role = next((found for found in map(role_of, named[:index]) if found), "")
        return task, role, "/".join(parts[: end + 1])
    return None


def _one(paths: set[str], files: Sequence[str]) -> str:
    """The one path: the outermost, the first; of several archives in a folder of their own, the folder."""
    first = min(paths, key=lambda path: (path.count("/"), path))
    folder = first.rpartition("/")[0]
    if len(paths) == 1 or not folder:
        return first
    return folder if {file for file in files if file.rpartition("/")[0] == folder} == paths else first


def _without_overlap(roles: dict[str, str]) -> dict[str, str]:
    """A folder without a role is left out where it holds one that has: proxies must not be test images."""
    inside = [path for role, path in roles.items() if role and path.startswith(f"{roles.get('', '')}/")]
    return {role: path for role, path in roles.items() if role or not inside}


def usable(root: Location, path: str, skipped: dict[str, str]) -> FoundImages | None:
    """The images at a path, or None with the reason noted."""
    try:
        return look_at_images(root, path)
    except InputError as error:
        skipped[path] = error.problems[0]
        return None
