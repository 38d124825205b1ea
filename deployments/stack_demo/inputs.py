"""What the demo lays into the bucket, and the fine-tunes that land."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.stack.environment import ROOT
from esm_core.errors import EsmergeError
from esm_core.storage import Location

NAME = "demo"


@dataclass(frozen=True)
class FineTune:
    """Files of one task below the demo's folder; keys as in a recipe."""

    name: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Place:
    """Where one run of the demo keeps its things: a folder of its own, so that nothing is there yet."""

    folder: Location

    @property
    def registry(self) -> Location:
        return self.folder / "registry"

    @property
    def store(self) -> Location:
        return self.folder / "store"


def prepare(folder: Path, quick: bool) -> list[FineTune]:
    """Make the demo's fine-tunes, unless they are there; with ``quick`` poor ones, and four only.

    Raises
    ------
    EsmergeError
        They could not be made.
    """
    flags = ["--quick"] if quick else []
    command = [sys.executable, "-m", "demo", "--out", str(folder), *flags]
    done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603
    if done.returncode:
        raise EsmergeError(f"The demo's fine-tunes could not be made: {' '.join(command)}")
    tasks = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    found = [FineTune(t["name"], {k: folder / v for k, v in t.items() if k != "name"}) for t in tasks]
    return found[:4] if quick else found


def upload_base(folder: Path, place: Place) -> None:
    """The base model and its configuration."""
    for name in ("base.safetensors", "open_clip_config.json"):
        (place.folder / name).write_bytes((folder / name).read_bytes())


def recipe_text(place: Place, quick: bool) -> str:
    """A recipe that merges whatever is in the registry; with ``quick`` α is not searched."""
    content: dict[str, Any] = {
        "name": NAME,
        "store": place.store.url,
        "base": {
            "architecture": (place.folder / "open_clip_config.json").url,
            "checkpoint": (place.folder / "base.safetensors").url,
        },
        "tasks_from": {"registry": place.registry.url},
        "samples": 32,
        "alpha": 1.0 if quick else "label_free",
    }
    return yaml.safe_dump(content, sort_keys=False)


def land_command(place: Place, finetune: FineTune) -> list[str]:
    """``esmerge land`` with what there is of the fine-tune."""
    options = [part for key, path in finetune.files.items() for part in (f"--{key}", str(path))]
    return ["land", place.registry.url, finetune.name, *options]


def land(place: Place, finetune: FineTune, tell: bool) -> Sequence[str]:
    """Land a fine-tune with the command that people use.

    Parameters
    ----------
    tell : bool
        Whether the platform is told, by an event.

    Returns
    -------
    list of str
        The lines that the command printed.

    Raises
    ------
    EsmergeError
        It was refused.
    """
    environment = dict(os.environ)
    if not tell:
        del environment["PREFECT_API_URL"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "esmerge", *land_command(place, finetune)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EsmergeError(f"{finetune.name} did not land: {done.stdout.strip()}")
    return done.stdout.strip().splitlines()
