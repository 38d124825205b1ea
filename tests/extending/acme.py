"""The package of docs/extending.md, installed for a while: its files are read out of the page."""

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
PACKAGE = "acme_esmerge"
FILES = {"ties.py": "methods", "timm_clip.py": "checkpoints/layouts", "npz_images.py": "images"}
"""The files of the page, and the folder of esm_core where each would be."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def source(file: str) -> str:
    """The block below the line that names the file."""
    found = re.search(
        rf"^`[\w/]*{re.escape(file)}`\n\n```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M
    )
    assert found is not None, f"docs/extending.md has no {file}"
    return found[1]


@dataclass(frozen=True)
class Installed:
    """A distribution in a folder on sys.path."""

    folder: Path

    def write(self, name: str = "acme-esmerge", version: str = "1.0", points: dict | None = None) -> None:
        """Its metadata; the entry points of the page unless others are given."""
        if points is None:
            points = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
        lines = [
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in points.items()
        ]
        info = self.folder / f"{name.replace('-', '_')}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("\n".join(lines))
        forget()

    def change(self, file: str, old: str, new: str) -> None:
        """Other code under the same name, as after an update and in a new process."""
        path = self.folder / PACKAGE / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()


@contextmanager
def installed(folder: Path) -> Iterator[Installed]:
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for file in FILES:
        (package / file).write_text(source(file))
    with pytest.MonkeyPatch.context() as patch:
        # A changed file of the same size and second would else be taken from its cache.
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(str(folder))
        made = Installed(folder)
        made.write()
        yield made
    forget()
