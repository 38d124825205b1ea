"""Extensions: one file that adds a merge method, a naming scheme of checkpoints or an image source.

A file in ``esm_core/methods``, ``esm_core/checkpoints/layouts`` or ``esm_core/images`` is found because it
is there. A file of another distribution is found by an entry point that names its module::

    [project.entry-points."esmerge.methods"]
    ties = "acme_merging.ties"

Nothing else is ever loaded: no path in a recipe, no file of a store, no name that is looked up somewhere.
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

from esm_core.errors import ExtensionError

Group = Literal["esmerge.methods", "esmerge.layouts", "esmerge.images"]
GROUPS: tuple[Group, ...] = ("esmerge.methods", "esmerge.layouts", "esmerge.images")

_SHA256 = "__esmerge_sha256__"


@dataclass(frozen=True)
class Code:
    """Which code an extension of another distribution is: part of the identity of what it makes.

    Attributes
    ----------
    distribution, version : str
        What was installed.
    sha256 : str
        Of the module's file. Other files it imports count by the version only.
    """

    distribution: str
    version: str
    sha256: str

    @property
    def identity(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Extension:
    """A module of another distribution, loaded."""

    name: str
    module: ModuleType
    code: Code


def modules_of(package: str, path: Iterable[str]) -> dict[str, ModuleType]:
    """The public modules of a package of esm_core, imported, by name in alphabetical order."""
    names = sorted(found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_"))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


def installed(group: Group, taken: Collection[str] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group by name, in alphabetical order; nothing is loaded.

    Parameters
    ----------
    taken : collection of str
        Names that esmerge has itself.

    Raises
    ------
    ExtensionError
        Two distributions claim one name, or one claims a name that is taken.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, _label(point))):
        if point.name in taken:
            raise ExtensionError(
                f"{_label(point)}: adds {point.name!r} to {group}, a name that esmerge has itself. Give it "
                "another name, or uninstall it."
            )
        if point.name in found:
            raise ExtensionError(
                f"{_label(found[point.name])} and {_label(point)} both add {point.name!r} to {group}. "
                "Uninstall one of them."
            )
        found[point.name] = point
    return found


def load(point: EntryPoint) -> Extension:
    """Import the module that an entry point names.

    Raises
    ------
    ExtensionError
        It cannot be imported, or is no module.
    """
    try:
        module = point.load()
    except Exception as error:  # importing runs the extension's code, which may raise anything
        raise ExtensionError(
            f"{_label(point)}: {point.value!r} cannot be loaded ({type(error).__name__}: {error}). Repair "
            "it, or uninstall it."
        ) from error
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or file is None:
        raise ExtensionError(
            f"{_label(point)}: {point.value!r} is not a module with a file of its own, which an entry point "
            f"of {point.group} names."
        )
    # Kept with the module: the file may change later, but not what is imported of it.
    sha256 = vars(module).setdefault(_SHA256, hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return Extension(point.name, module, Code(_distribution(point), _version(point), sha256))


def codes(group: Group) -> list[dict[str, str]]:
    """Identities of every extension of a group, loaded; empty where none is installed."""
    return [load(point).code.identity for point in installed(group).values()]


def versions() -> dict[str, str]:
    """Distribution → version of everything that adds something to esmerge; nothing is loaded."""
    points = [point for group in GROUPS for point in entry_points(group=group)]
    return {_distribution(point): _version(point) for point in sorted(points, key=_label)}


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist is not None else "unknown"


def _label(point: EntryPoint) -> str:
    return f"{_distribution(point)} {_version(point)}"
