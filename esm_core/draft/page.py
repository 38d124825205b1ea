"""The text of a drafted recipe: commented YAML, with TODO where somebody has to say something."""

import json
import os
from collections.abc import Iterator

import yaml

from esm_core.draft.assemble import PROXIES, Draft, TaskDraft
from esm_core.errors import InputError
from esm_core.storage import Location


def recipe_text(found: Draft, name: str, store: str, target: Location) -> str:
    """The recipe as it is to be written to ``target``; relative paths are from its folder.

    Raises
    ------
    InputError
        A path that no recipe can hold.
    """
    return "\n".join(_lines(found, name, store, target)) + "\n"


def _lines(found: Draft, name: str, store: str, target: Location) -> Iterator[str]:
    yield "# What to merge, how, and where the result goes. Made by esmerge init; all keys: docs/recipe.md"
    yield "# Paths are relative to this file; s3:// works too."
    if found.todo:
        yield "# Lines with TODO need you; a merge refuses the recipe until then."
    yield f"{_entry('name', name)}  # of the artifact; every merge that differs publishes a new version of it"
    yield f"{_entry('store', store)}  # a folder or s3://bucket/prefix"
    yield ""
    yield "base:"
    yield _architecture_line(found, target)
    if found.base is None:
        yield "  checkpoint:  # TODO: the checkpoint that every fine-tune started from"
    else:
        kind = "full CLIP" if found.base.text.tensors else "vision tower only"
        yield f"  {_entry('checkpoint', path_in_recipe(found.base.location, target))}  # {kind}"
    yield ""
    yield "# Each task: a fine-tune of the base and unlabelled proxy images (folder, tar or Parquet). With a"
    yield "# head and labelled test images the accuracy table is made; validation images can choose alpha."
    yield "tasks:"
    for task in found.tasks:
        yield from _task_lines(task, target)
    yield ""
    few = "" if found.samples == PROXIES else "  # what the task with the fewest has; 32 is better"
    yield f"samples: {found.samples}{few or '  # proxy images per task'}"
    yield "alpha: label_free  # merging coefficient: searched on the proxies; or validation; or a number"
    yield ""
    yield "# Routed low-rank experts (ESM++) beside the merged model, close to the fine-tunes in accuracy:"
    yield "# experts: {}"
    if any(task.test for task in found.tasks):
        yield ""
        yield "# Baselines to show beside ESM in the accuracy table:"
        yield "# compare: [{method: average}, {method: task_arithmetic}, {method: tsv_m}, {method: iso_c}]"


def _architecture_line(found: Draft, target: Location) -> str:
    guess = found.architecture
    if guess.name is None:
        return f"  architecture:  # TODO: {_comment(guess.why)}"
    known = path_in_recipe(Location(guess.name), target) if "://" in guess.name else guess.name
    return f"  {_entry('architecture', known)}  # {_comment(guess.why)}"


def _task_lines(task: TaskDraft, target: Location) -> Iterator[str]:
    yield f"  - {_entry('name', task.name)}"
    yield f"    {_entry('checkpoint', path_in_recipe(task.tower.location, target))}"
    if task.proxy is None:
        yield "    proxy:  # TODO: a folder, tar or Parquet file of its images, unlabelled; 32 are used"
    for key in ("proxy", "validation", "test", "head"):
        found = getattr(task, key)
        if found is not None:
            count = f"  # {found.count} images" if key == "proxy" else ""
            yield f"    {_entry(key, path_in_recipe(found.location, target))}{count}"
    for note in task.notes:
        yield f"    # left out: {_comment(note)}"


def path_in_recipe(place: Location, target: Location) -> str:
    """How a recipe at ``target`` names a place: relative where both are on this machine, else its URL.

    Raises
    ------
    InputError
        It would be read as another place: nobody can name it in a recipe.
    """
    texts = [place.url]
    if place.is_local and target.is_local:
        relative = os.path.relpath(place.path, target.parent.path)
        texts = [relative, f"./{relative}", place.path, *texts]
    for text in texts:
        if text.removeprefix("local-dir:") == text and _reads_as(text, place, target):
            return text
    raise InputError(f"{place}: cannot be named in a recipe; rename it to letters, digits, '.', '_' and '-'.")


def _reads_as(text: str, place: Location, target: Location) -> bool:
    try:
        text.encode("utf-8")
        return Location.parse(text, relative_to=target.parent) == place
    except (InputError, UnicodeEncodeError):
        return False


def _comment(text: str) -> str:
    """On one line, whatever a file is called."""
    return json.dumps(text)[1:-1]


def _entry(key: str, value: str) -> str:
    """``key: value`` in YAML, on one line, quoted where it must be."""
    return yaml.safe_dump({key: value}, allow_unicode=True, width=10**9).strip("\n")
