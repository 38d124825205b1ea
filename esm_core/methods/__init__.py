"""Merge methods, one file each. A baseline merges one weight from the tasks' updates of it.

A module of this package is a baseline where it has ``TITLE``, ``COEFFICIENT`` and ``merge_weight``; its name
is the method's name in a recipe. Modules of other distributions are found by entry points
(:mod:`esm_core.extensions`, docs/extending.md).
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

from torch import Tensor

from esm_core.errors import ExtensionError
from esm_core.extensions import Code, installed, load, modules_of

_NEEDED = ("TITLE", "COEFFICIENT", "merge_weight")
_OTHER_MODELS = ("base", "experts", "esm", "esm_pp_route", "esm_pp_oracle")


@dataclass(frozen=True)
class Baseline:
    """A method users compare with.

    Attributes
    ----------
    merge_weight : callable
        The tasks' updates of one weight, a sequence that may be lazy → the merged update in float64.
    coefficient : float
        Its merging coefficient where the recipe names none.
    title : str
        Its name for people.
    summary : str
        The first line of its file.
    code : Code, optional
        Which code it is, where another distribution brings it.
    """

    merge_weight: Callable[[Sequence[Tensor]], Tensor]
    coefficient: float
    title: str
    summary: str
    code: Code | None = None


def as_baseline(module: ModuleType, code: Code | None = None) -> Baseline:
    """The baseline in a module.

    Raises
    ------
    ExtensionError
        It lacks ``TITLE``, ``COEFFICIENT`` or ``merge_weight``, or one of them is not usable.
    """
    found = vars(module)
    lacks = [name for name in _NEEDED if name not in found]
    if lacks:
        raise ExtensionError(
            f"{module.__name__}: lacks {', '.join(lacks)}; a merge method has {', '.join(_NEEDED)}."
        )
    title, coefficient, merge_weight = (found[name] for name in _NEEDED)
    if not isinstance(title, str) or not title.strip() or set(title) & set("|\n"):
        raise ExtensionError(f"{module.__name__}: TITLE must be one line of text without |, got {title!r}.")
    number = isinstance(coefficient, int | float) and not isinstance(coefficient, bool)
    if not number or not 0 < coefficient < math.inf:
        raise ExtensionError(f"{module.__name__}: COEFFICIENT must be above 0, got {coefficient!r}.")
    if not callable(merge_weight):
        raise ExtensionError(f"{module.__name__}: merge_weight is {merge_weight!r}, expected a function.")
    summary = (module.__doc__ or title).strip().split("\n")[0]
    return Baseline(merge_weight, float(coefficient), title, summary, code)


def baselines_in(modules: Mapping[str, ModuleType]) -> dict[str, Baseline]:
    """The baselines among modules by name; one that has nothing a baseline needs is none.

    Raises
    ------
    ExtensionError
        A module is half a baseline, or has the name of another column of the accuracy table.
    """
    found = {name: as_baseline(m) for name, m in modules.items() if any(n in vars(m) for n in _NEEDED)}
    for name in found.keys() & set(_OTHER_MODELS):
        raise ExtensionError(f"{modules[name].__name__}: {name!r} is no name for a merge method. Rename it.")
    return found


BASELINES: Mapping[str, Baseline] = baselines_in(modules_of(__name__, __path__))
"""esmerge's own."""


def baseline(name: str) -> Baseline:
    """The method of that name: esmerge's own, or one that is installed.

    Raises
    ------
    ExtensionError
        There is none of that name, or it cannot be used.
    """
    if name in BASELINES:
        return BASELINES[name]
    point = _installed().get(name)
    if point is None:
        raise ExtensionError(f"There is no merge method {name!r}; there are {', '.join(method_names())}.")
    extension = load(point)
    return as_baseline(extension.module, extension.code)


def method_names() -> tuple[str, ...]:
    """Names of esmerge's own methods and of those that are installed, which are not loaded."""
    return (*BASELINES, *_installed())


def method_title(name: str) -> str:
    """A method's name for people; the name itself where it is not installed here, or unusable."""
    try:
        return baseline(name).title
    except ExtensionError:
        return name


def check_method(name: str) -> str:
    """The name of a method in a recipe; ``ValueError`` where there is none of that name."""
    names = method_names()
    if name not in names:
        raise ValueError(
            f"there is no merge method {reprlib.repr(name)}; there are {', '.join(names)} (one of another "
            "package must be installed where it runs)"
        )
    return name


def describe_methods(schema: dict[str, Any]) -> None:
    """What the methods' own files say of them; of those that are installed beside, which are loaded."""
    names = method_names()
    found = [(name, baseline(name)) for name in names]
    told = "; ".join(f"{name}: {m.summary.rstrip('.')} (coefficient {m.coefficient:g})" for name, m in found)
    schema |= {"enum": list(names), "description": f"The baseline, each at most once. {told}."}


def _installed() -> dict[str, EntryPoint]:
    return installed("esmerge.methods", (*BASELINES, *_OTHER_MODELS))
