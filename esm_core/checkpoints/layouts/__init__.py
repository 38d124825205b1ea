"""Naming schemes of checkpoints, one file each: how a programme names the tensors of a vision tower.

A module of this package has ``TITLE``, for the error that lists what is understood, and ``find_tower``, which
gives the :class:`~esm_core.checkpoints.layout.Tower` in a checkpoint, or None for a file of another scheme.
Modules of other distributions are found by entry points (:mod:`esm_core.extensions`, docs/extending.md),
and asked about files that none of these understands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.layout import Tower
from esm_core.errors import ExtensionError, InputError
from esm_core.extensions import Code, installed, load, modules_of

_NEEDED = ("TITLE", "find_tower")


@dataclass(frozen=True)
class Layout:
    """A naming scheme.

    Attributes
    ----------
    title : str
        What it is, for people, with the names it is known by.
    find_tower : callable
        The tower in a checkpoint, None where its names are not of this scheme; reads no tensor. Raises
        InputError where they are, but no tower of open_clip has such tensors.
    code : Code, optional
        Which code it is, where another distribution brings it.
    """

    title: str
    find_tower: Callable[[Checkpoint], Tower | None]
    code: Code | None = None


def as_layout(module: ModuleType, code: Code | None = None) -> Layout:
    """The naming scheme in a module.

    Raises
    ------
    ExtensionError
        It lacks ``TITLE`` or ``find_tower``.
    """
    found = vars(module)
    lacks = [name for name in _NEEDED if name not in found]
    if lacks:
        raise ExtensionError(
            f"{module.__name__}: lacks {', '.join(lacks)}; a naming scheme has {', '.join(_NEEDED)}."
        )
    return Layout(str(found["TITLE"]), found["find_tower"], code)


LAYOUTS: Mapping[str, Layout] = {
    name: as_layout(module) for name, module in modules_of(__name__, __path__).items()
}
"""esmerge's own."""


def find_tower(checkpoint: Checkpoint) -> tuple[Tower, Code | None]:
    """The vision tower in ``checkpoint``, and whose code found it where that is not esmerge's.

    Raises
    ------
    InputError
        The names fit no scheme or several, or a scheme whose tower they do not make.
    """
    found = _claims(checkpoint, LAYOUTS.values())
    if found is not None:
        return found
    others = [load(point) for point in installed("esmerge.layouts", LAYOUTS).values()]
    layouts = [as_layout(other.module, other.code) for other in others]
    found = _claims(checkpoint, layouts)
    if found is not None:
        return found
    first = ", ".join(list(checkpoint.tensors)[:4]) or "no tensors"
    titles = "; ".join(layout.title for layout in (*LAYOUTS.values(), *layouts))
    raise InputError(
        f"{checkpoint.location}: holds no vision tower esmerge knows: its first names are {first}. "
        f"Layouts understood: {titles}."
    )


def _claims(checkpoint: Checkpoint, layouts: Iterable[Layout]) -> tuple[Tower, Code | None] | None:
    found = [(layout, tower) for layout in layouts if (tower := layout.find_tower(checkpoint)) is not None]
    if len(found) > 1:
        titles = " and ".join(layout.title for layout, _ in found)
        raise InputError(
            f"{checkpoint.location}: its names fit {titles}, and which is meant is not clear. Save the "
            "vision tower alone."
        )
    return (found[0][1], found[0][0].code) if found else None
