"""Putting together what belongs together: a base, its fine-tunes, and for each its images and head."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esm_core.draft.architecture import Guess, given_architecture, guess_architecture
from esm_core.draft.images import FoundImages, images_of_tasks, proxy_role, usable
from esm_core.draft.scan import FoundHead, FoundTower, Scan, look_at, scan
from esm_core.draft.words import head_key, image_key, is_base, key, task_names, words
from esm_core.errors import InputError
from esm_core.layers import PROJECTION
from esm_core.storage import Location
from esm_core.survey import compare_with_base

PROXIES = 32
"""Proxy images per task where every task has as many: the recipe's default."""


@dataclass(frozen=True)
class TaskDraft:
    """A fine-tune and what was found for it.

    Attributes
    ----------
    notes : tuple of str
        What was found and is left out, and why.
    """

    name: str
    tower: FoundTower
    proxy: FoundImages | None
    validation: FoundImages | None
    test: FoundImages | None
    head: FoundHead | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """What a recipe can say.

    Attributes
    ----------
    samples : int
        Proxy images that every task has, at most :data:`PROXIES`.
    todo : list of str
        What somebody has to fill in before a merge.
    skipped : dict of str to str
        Path → why it is left out.
    """

    root: Location
    base: FoundTower | None
    architecture: Guess
    tasks: list[TaskDraft]
    samples: int
    skipped: dict[str, str]
    todo: list[str] = field(default_factory=list)


def draft(root: Location, base: Location | None = None, architecture: str | None = None) -> Draft:
    """Look at a folder of checkpoints and say what a recipe for them is.

    Parameters
    ----------
    root : Location
    base : Location, optional
        The checkpoint that every fine-tune started from; found by its name where it is not given.
    architecture : str, optional
        Its architecture, an open_clip name or the path of a configuration; by its shapes where not given.

    Raises
    ------
    InputError
        No such folder, no fine-tune in it, a base that is no checkpoint, or an architecture of other shapes.
    """
    found = scan(root)
    chosen = look_at(base, base.url) if base is not None else _base_by_name(found)
    skipped = dict(found.skipped)
    tuned = _fine_tunes(found, chosen, skipped)
    if not tuned:
        reasons = "".join(f"\n  - {path}: {reason}" for path, reason in sorted(skipped.items())[:10])
        raise InputError(f"{root}: holds no fine-tune that could be merged.{reasons}")
    guess = _architecture(found, chosen or tuned[0], architecture, chosen is None)
    tasks = _tasks(found, tuned, skipped)
    counts = [task.proxy.count for task in tasks if task.proxy]
    todo = _todo(chosen, guess, tasks)
    return Draft(root, chosen, guess, tasks, min([PROXIES, *counts]), skipped, todo)


def _base_by_name(found: Scan) -> FoundTower | None:
    """The checkpoint that is called like a base; else the only full CLIP beside towers alone."""
    named = [tower for path, tower in found.towers.items() if is_base(path)]
    if len(named) == 1:
        return named[0]
    full = [tower for tower in found.towers.values() if tower.text.tensors]
    return full[0] if not named and len(full) == 1 and len(found.towers) > 2 else None


def _fine_tunes(found: Scan, base: FoundTower | None, skipped: dict[str, str]) -> list[FoundTower]:
    """The towers that fit the base; without one, the largest group of towers that fit each other."""
    others = [t for t in found.towers.values() if base is None or t.location != base.location]
    if base is None:
        groups = [[t for t in others if not compare_with_base(t.tower, first.tower)] for first in others]
        chosen = max(groups, key=len, default=[])
        skipped |= {t.path: "has other tensors than the others" for t in others if t not in chosen}
        return chosen
    problems = {tower.path: compare_with_base(tower.tower, base.tower) for tower in others}
    skipped |= {path: found[0] for path, found in problems.items() if found}
    return [tower for tower in others if not problems[tower.path]]


def _architecture(found: Scan, base: FoundTower, given: str | None, unknown_base: bool) -> Guess:
    if given is not None:
        return given_architecture(given, base)
    folder = "" if unknown_base else posixpath.dirname(base.path)
    near = sorted(found.configs, key=lambda path: (posixpath.dirname(path) not in (folder, base.path), path))
    said = {tower.activation for tower in (base, *found.towers.values()) if tower.activation is not None}
    activation = said.pop() if len(said) == 1 else None
    return guess_architecture(base, [found.root / path for path in near], activation)


def _tasks(found: Scan, tuned: Sequence[FoundTower], skipped: dict[str, str]) -> list[TaskDraft]:
    names = task_names([tower.path for tower in tuned])
    keys = {name: {image_key(name), key(words(name)), *_folder_keys(path)} for path, name in names.items()}
    images = images_of_tasks(found.files, keys)
    heads = _heads(found, keys)
    made = [_task(found, tower, names[tower.path], images, heads, skipped) for tower in tuned]
    return sorted(made, key=lambda task: task.name)


def _folder_keys(path: str) -> set[str]:
    """A checkpoint in a folder of its own may have its images beside it."""
    *folders, _ = path.split("/")
    return {image_key(folders[-1])} if folders else set()


def _heads(found: Scan, keys: Mapping[str, set[str]]) -> dict[str, FoundHead]:
    heads = {}
    for name, own in keys.items():
        fitting = [head for path, head in found.heads.items() if head_key(path) in own]
        if len(fitting) == 1:
            heads[name] = fitting[0]
    return heads


def _task(
    found: Scan,
    tower: FoundTower,
    name: str,
    images: Mapping[str, Mapping[str, str]],
    heads: Mapping[str, FoundHead],
    skipped: dict[str, str],
) -> TaskDraft:
    roles, notes = images[name], []
    role = proxy_role(roles)
    proxy = usable(found.root, roles[role], skipped) if role is not None else None
    head = heads.get(name)
    width = tower.tower.tensors[PROJECTION].shape[-1] if PROJECTION in tower.tower.tensors else None
    if head is not None and width is not None and head.width != width:
        notes.append(f"{head.path} is a head for {head.width} features, the model gives {width}")
        head = None
    labelled: dict[str, FoundImages | None] = {"validation": None, "test": None}
    for kind in labelled:
        if kind not in roles:
            continue
        source = usable(found.root, roles[kind], skipped)
        if source is None:
            continue
        if head is None:
            notes.append(f"{roles[kind]} needs a head: a safetensors file with `weight`, or zero_shot")
        elif source.classes not in (None, head.classes):
            notes.append(
                f"{roles[kind]} has {source.classes} classes, its head {head.path} has {head.classes}"
            )
        else:
            labelled[kind] = source
    return TaskDraft(name, tower, proxy, labelled["validation"], labelled["test"], head, tuple(notes))


def _todo(base: FoundTower | None, guess: Guess, tasks: Sequence[TaskDraft]) -> list[str]:
    todo = []
    if base is None:
        todo.append(
            "base.checkpoint: the checkpoint that every fine-tune started from; if it is one of these, --base"
        )
    if guess.name is None:
        todo.append(f"base.architecture: {guess.why} (or give --architecture)")
    todo += [f"task {task.name}: proxy: its unlabelled images" for task in tasks if task.proxy is None]
    if len(tasks) < 2:
        todo.append("tasks: a merge needs at least two fine-tunes")
    return todo
