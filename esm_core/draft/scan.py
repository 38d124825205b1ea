"""What is in a folder: vision towers, heads, configurations and files of images, by their headers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from esm_core.checkpoints import (
    Checkpoint,
    VisionCheckpoint,
    open_checkpoint,
    text_checkpoint,
    vision_checkpoint,
)
from esm_core.checkpoints.activation import Activation, activation_evidence
from esm_core.checkpoints.open import HF_NAMES, OPEN_CLIP_NAMES
from esm_core.errors import InputError
from esm_core.heads import linear_head_classes
from esm_core.images.base import is_hidden
from esm_core.storage import Location

_CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_IN_FOLDERS = (*OPEN_CLIP_NAMES, *HF_NAMES)
_OF_TRAINING = ("optimizer", "scheduler", "training_args", "rng_state", "scaler")
_MOST_CONFIG = 2**16
"""Bytes of the largest JSON file that may be an open_clip configuration."""


@dataclass(frozen=True)
class FoundTower:
    """A checkpoint with a vision tower; its file, or the open_clip or HF folder it is in."""

    path: str
    location: Location
    tower: VisionCheckpoint
    text: Checkpoint
    activation: Activation | None


@dataclass(frozen=True)
class FoundHead:
    """A linear head for features of ``width`` values."""

    path: str
    location: Location
    classes: int
    width: int


@dataclass(frozen=True)
class Scan:
    """What a folder holds; paths are relative to it.

    Attributes
    ----------
    files : list of str
        Every file that is looked at: none hidden, of a store or of a registry.
    towers, heads : dict
        Checkpoints by path; of one in a folder of open_clip or transformers, the folder's.
    configs : list of str
        Paths of open_clip configurations.
    skipped : dict of str to str
        Why a file is left out.
    """

    root: Location
    files: list[str]
    towers: dict[str, FoundTower] = field(default_factory=dict)
    heads: dict[str, FoundHead] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def scan(root: Location) -> Scan:
    """Look at every file below ``root``; a file that cannot be used is noted, not an error.

    Raises
    ------
    InputError
        There is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the checkpoints.")
    sizes = {path: size for path, (size, _) in root.entries().items() if not is_hidden(path)}
    made = _made_by_esmerge(sizes)
    found = Scan(root, sorted(path for path in sizes if not path.startswith(made)))
    for path in _checkpoint_files(found.files):
        _classify(found, path)
    for path in found.files:
        if path.endswith(".json") and sizes[path] <= _MOST_CONFIG and _is_config(root / path):
            found.configs.append(path)
    return found


def look_at(location: Location, path: str) -> FoundTower:
    """The vision tower at a place; :class:`InputError` where there is none."""
    checkpoint = open_checkpoint(location)
    tower = vision_checkpoint(checkpoint)
    evidence = activation_evidence(location, checkpoint)
    return FoundTower(path, location, tower, text_checkpoint(checkpoint), evidence[0] if evidence else None)


def _made_by_esmerge(files: Mapping[str, int]) -> tuple[str, ...]:
    """Folders that are a store, or a version in a registry: their files belong to esmerge."""
    stores = [path.removesuffix("format.json") for path in files if f"/{path}".endswith("/format.json")]
    kept = ("artifacts/", "plans/", "inspections/", "shifts/")
    stores = [s for s in stores if s and any(f.startswith(tuple(s + k for k in kept)) for f in files)]
    landed = [path.removesuffix("finetune.yaml") for path in files if path.endswith("/finetune.yaml")]
    return (*stores, *landed)


def _checkpoint_files(files: Iterable[str]) -> list[str]:
    """Files that may be checkpoints; of a folder of open_clip or transformers the one they would load."""
    chosen: list[str] = []
    loaded: dict[str, str] = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        if name in _IN_FOLDERS:
            loaded[folder] = min(loaded.get(folder, path), path, key=lambda p: _IN_FOLDERS.index(_name(p)))
        elif name.lower().endswith(_CHECKPOINTS) and not name.startswith(_OF_TRAINING):
            chosen.append(path)
    return sorted([*chosen, *loaded.values()])


def _classify(found: Scan, path: str) -> None:
    location = found.root / path
    folder = path.rpartition("/")[0] if _name(path) in _IN_FOLDERS else ""
    try:
        checkpoint = open_checkpoint(location)
        if "weight" in checkpoint.tensors and len(checkpoint.tensors) <= 2:
            classes = linear_head_classes(checkpoint, None)
            width = checkpoint.tensors["weight"].shape[1]
            found.heads[path] = FoundHead(path, location, classes, width)
        elif folder:
            found.towers[folder] = look_at(found.root / folder, folder)
        else:
            found.towers[path] = look_at(location, path)
    except InputError as error:
        found.skipped[path] = error.problems[0]


def _is_config(location: Location) -> bool:
    try:
        content = json.loads(location.read_bytes())
    except (ValueError, RecursionError, InputError):
        return False
    return isinstance(content, dict) and isinstance(content.get("model_cfg"), dict)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
