"""Python and the installed libraries, against what this esmerge supports."""

import platform
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from esm_core.doctor.check import Check

PACKAGE = "esmerge"


def check_python() -> Check:
    """The version of Python against the one that the installed esmerge asks for."""
    found = f"{platform.python_version()} ({platform.python_implementation()})"
    try:
        asked = metadata(PACKAGE)["Requires-Python"] or ""
    except PackageNotFoundError:
        return Check("python", "warn", found, _INSTALL)
    if SpecifierSet(asked).contains(platform.python_version(), prereleases=True):
        return Check("python", "ok", found)
    return Check("python", "fail", f"{found}, but esmerge needs {asked}", f"Install esmerge with {asked}.")


def check_libraries(extras: Collection[str] = ()) -> list[Check]:
    """One check of all libraries that fit together, and one of each that does not.

    Parameters
    ----------
    extras : collection of str
        Extras of the package that are needed too, such as ``s3``.
    """
    try:
        asked = list(_asked(extras))
    except PackageNotFoundError:
        return [Check("libraries", "warn", "esmerge is not installed as a package", _INSTALL)]
    fitting, problems = [f"{PACKAGE} {version(PACKAGE)}"], []
    for requirement, extra in asked:
        problem = _problem(requirement, extra)
        if problem is None:
            fitting.append(f"{requirement.name} {version(requirement.name)}")
        else:
            problems.append(problem)
    return [Check("libraries", "ok", ", ".join(sorted(fitting, key=str.lower))), *problems]


_INSTALL = "Install it: pip install -c constraints.txt ."


def _asked(extras: Collection[str]) -> Iterator[tuple[Requirement, str]]:
    for text in requires(PACKAGE) or []:
        requirement = Requirement(text)
        for extra in ("", *extras):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement, extra
                break


def _problem(requirement: Requirement, extra: str) -> Check | None:
    name, asked = f"library {requirement.name}", f"{requirement.name}{requirement.specifier}"
    do = f"pip install {PACKAGE}[{extra}]" if extra else f"pip install '{asked}'"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(name, "fail", f"is not installed; esmerge needs {asked}", do)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    said = f"{found}, but this esmerge supports {requirement.specifier}"
    return Check(name, "fail", said, f"pip install '{asked}', or install with constraints.txt")
