"""From a recipe that names a registry to one that names every fine-tune."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from esm_core.claims import version_label
from esm_core.errors import InputError, raise_together
from esm_core.images.base import is_hidden
from esm_core.recipe import Recipe, TasksFrom, TaskSpec
from esm_core.registry.finetune import IMAGES, FineTune, newest, read_finetune, task_folder, tasks
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors


class TooFewTasks(InputError):
    """The registry is fine, but holds fewer fine-tunes than a merge needs: more may land."""


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with explicit tasks only: those of ``tasks_from`` in their newest or pinned versions.

    A recipe without ``tasks_from`` is returned as it is. Nothing but listings and ``finetune.yaml``
    files is read.

    Raises
    ------
    InputError
        With every problem found: an ``include`` that matches nothing, a pin to a version that is not
        there, a task that is in ``tasks`` too, fewer than two tasks, an unreadable ``finetune.yaml``, and
        files that are not those that landed.
    """
    if recipe.tasks_from is None:
        return recipe
    registry = Location.parse(recipe.tasks_from.registry)
    problems: list[str] = []
    available = tasks(registry)
    if not available:
        raise TooFewTasks(f"tasks_from: {registry}: holds no fine-tune. Land one with: esmerge land")
    chosen = _chosen(recipe.tasks_from, available)
    problems.extend(_unfit(recipe, registry, available, chosen))
    found = {spec.name: spec for spec in recipe.tasks}
    for name in chosen:
        try:
            found.setdefault(name, _task(registry, recipe.tasks_from, name))
        except InputError as error:
            problems.extend(f"tasks_from: {problem}" for problem in error.problems)
    if not problems and len(found) < 2:
        raise TooFewTasks(
            f"tasks_from: {registry}: a merge needs at least two fine-tunes; there is "
            f"{', '.join(found) or 'none'}."
        )
    raise_together(problems)
    specs = [found[name] for name in sorted(found)]
    return recipe.model_copy(update={"tasks": specs, "tasks_from": None})


def _chosen(wanted: TasksFrom, available: Iterable[str]) -> list[str]:
    return [n for n in available if _matches(n, wanted.include) and not _matches(n, wanted.exclude)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _unfit(recipe: Recipe, registry: Location, available: list[str], chosen: list[str]) -> Iterator[str]:
    assert recipe.tasks_from is not None
    for pattern in recipe.tasks_from.include:
        if not any(fnmatchcase(name, pattern) for name in available):
            yield (
                f"tasks_from.include: {pattern!r} matches no task of {registry}, which has "
                f"{', '.join(available)}."
            )
    for name in recipe.tasks_from.pins:
        if name not in chosen:
            reason = "is excluded or not included" if name in available else f"is not in {registry}"
            yield f"tasks_from.pins: {name} {reason}."
    for name in sorted({spec.name for spec in recipe.tasks} & set(chosen)):
        yield f"tasks: {name} is in {registry} too; rename it, or add it to tasks_from.exclude."


def _task(registry: Location, wanted: TasksFrom, name: str) -> TaskSpec:
    pin = wanted.pins.get(name)
    number = int(pin[1:]) if pin is not None else newest(registry, name)
    if number is None:
        raise InputError(f"{registry}: task {name} was removed meanwhile. Run again.")
    finetune = read_finetune(registry, name, number)
    folder = task_folder(registry, name) / version_label(number)
    raise_together(_replaced(folder, finetune))

    def url(place: str | None) -> str | None:
        return place if place is None or "://" in place else (folder / place).url

    return TaskSpec(
        name=name,
        checkpoint=(folder / finetune.checkpoint).url,
        head=url(finetune.head),
        zero_shot=finetune.zero_shot,
        activation=finetune.activation,
        sha256=finetune.files[finetune.checkpoint].sha256,
        landed=version_label(number),
        **{field: url(getattr(finetune, field)) for field in IMAGES},
    )


def _replaced(folder: Location, finetune: FineTune) -> Iterator[str]:
    """What in the folder is not what landed, by names and sizes."""
    sizes = _sizes(folder)
    remedy = "Land it again as a new version."
    for path, facts in finetune.files.items():
        if path not in sizes:
            yield f"{folder / path}: is missing: it was deleted since it landed. {remedy}"
        elif sizes[path] != facts.bytes:
            yield (
                f"{folder / path}: has {sizes[path]} bytes, but {facts.bytes} landed: it is half-uploaded "
                f"or was replaced under the same version. {remedy}"
            )
    images = tuple(f"{place}/" for field in IMAGES if (place := getattr(finetune, field)))
    for path in sorted(set(sizes) - set(finetune.files)):
        if path.startswith(images) and not is_hidden(path):
            yield f"{folder / path}: was added to a version that has landed. {remedy}"


def _sizes(folder: Location) -> dict[str, int]:
    """Path below the folder → size, of every file: one listing."""
    prefix = folder.path.rstrip("/") + "/"
    with storage_errors(folder, "list"):
        found = folder.fs.find(folder.path, detail=True)
    return {str(path)[len(prefix) :]: int(entry["size"]) for path, entry in found.items()}
