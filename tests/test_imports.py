"""Dependencies point one way: esmerge → deployments → flows → tasks → esm_core."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["esm_core", "tasks", "flows", "deployments", "esmerge"]


def imported(package: str) -> dict[str, set[str]]:
    """Module file → the top-level packages it imports."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
        found[str(path.relative_to(ROOT))] = names
    return found


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :]) | {"demo", "benchmarks", "docs_tools", "tests"}
    for module, names in imported(package).items():
        assert not names & above, module


def test_the_library_knows_no_prefect() -> None:
    for module, names in imported("esm_core").items():
        assert not names & {"prefect", "dask", "typer", "rich"}, module


def test_only_convert_can_unpickle() -> None:
    for package in [*ORDER, "demo"]:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if path.name != "convert.py":
                for call in ("weights_only=False", "pickle.load", "Unpickler("):
                    assert call not in text, path
