"""The diagram of the architecture shows what the packages really import."""

import ast
import re
from pathlib import Path

from test_imports import ORDER, ROOT

from docs_tools.diagram import ARROWS, FILE, LIBRARY, PACKAGES, PARTS, draw

PARTS_OF_A_LIBRARY = {"prefect_dask": "dask", "distributed": "dask", "torchvision": "torch", "s3fs": "fsspec"}


def imported_by(package: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return {PARTS_OF_A_LIBRARY.get(name, name) for name in found}


def test_the_file_is_what_is_drawn() -> None:
    assert FILE.read_text() == draw(), "run: python -m docs_tools.diagram"


def test_every_package_is_a_box_and_every_box_a_package() -> None:
    assert [package.name for package in PACKAGES] + [LIBRARY.name] == ORDER[::-1]
    packages = {path.parent.name for path in (ROOT / "esm_core").glob("*/__init__.py")}
    assert set(PARTS) == packages, "docs_tools/diagram.py: PARTS"


def test_every_arrow_is_an_import_and_every_import_an_arrow() -> None:
    imports = {(package, other) for package in ORDER for other in imported_by(package) & {*ORDER} - {package}}
    assert set(ARROWS) == imports


def test_libraries_in_a_box_are_imported_there_and_only_there() -> None:
    shown = {library for package in (*PACKAGES, LIBRARY) for library in package.libraries}
    for package in (*PACKAGES, LIBRARY):
        own = {"torch"} if package.name == "tasks" else set()  # which only names a device
        assert set(package.libraries) == imported_by(package.name) & shown - own, package.name


def test_the_drawing_has_text_alternatives_and_no_colours_of_its_own() -> None:
    text = draw()
    assert "<title>" in text
    assert 'role="img"' in text
    assert not re.search(r"(fill|stroke)=\"#", text)
    for name in [package.name for package in PACKAGES] + list(PARTS):
        assert f">{name}</text>" in text


def test_the_page_names_the_folders_there_are() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:esm_core|flows|tasks|deployments|esmerge)/[\w/]+(?:\.py)?)`", page):
        assert Path(ROOT / name).exists(), name
