"""The versions of constraints.txt can be installed wherever pyproject.toml says that esmerge can."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent


def _pythons() -> dict[str, str]:
    """What each pinned package that is here asks of Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for name in (Requirement(line).name for line in lines if not line.startswith("#")):
        try:
            found[name] = importlib.metadata.metadata(name).get("Requires-Python", "")
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
    return found


def test_pinned_packages_run_on_the_oldest_python_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    pythons = _pythons()
    assert len(pythons) > 100
    refused = {name: wanted for name, wanted in pythons.items() if oldest not in SpecifierSet(wanted)}
    assert refused == {}, f"choose versions for Python {oldest}, as Debian's may be 3.11.2"
