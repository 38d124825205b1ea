"""Fine-tunes of the size of real ones: a tower of random weights, realistic updates, noise images.

Written tensor by tensor, so that any number of any size takes the memory of one tensor.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from benchmarks.scaling.updates import base_weight, place_of, update_of
from esm_core.architecture import load_architecture, tower_shapes
from esm_core.checkpoints import SafetensorsFile, TensorInfo, write_safetensors
from esm_core.storage import Location

Architecture = str | dict[str, Any]
"""An open_clip name, or the content of an open_clip_config.json."""

VIT_B_32: Architecture = "ViT-B-32-quickgelu"
TINY: Architecture = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 12, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {"size": 16},
}
"""As many layers as ViT-B/32, and next to nothing to compute in them."""

SAMPLES = 32
_GENERATOR = 2
"""Of what is written; a folder that another one wrote is refused."""


def write_fine_tunes(root: Path, model: Architecture, count: int) -> Path:
    """Write a base, ``count`` fine-tunes of it, 32 images each, and a recipe; returns the recipe's path."""
    write_inputs(root, model, count)
    return write_recipe(root, count)


def write_inputs(root: Path, model: Architecture, count: int, seed: int = 0) -> None:
    """Write a base, ``count`` fine-tunes of it and 32 images each; what is there already is kept.

    Raises
    ------
    SystemExit
        ``root`` holds those of another model, seed or version of this module.
    """
    root.mkdir(parents=True, exist_ok=True)
    _claim(root, {"generator": _GENERATOR, "model": model, "seed": seed})
    if not isinstance(model, str):
        (root / "open_clip_config.json").write_text(json.dumps(model))
    architecture = load_architecture(_architecture(root, model), Location.parse(str(root)))
    blocks = int(architecture.model_cfg["vision_cfg"]["layers"])
    infos = {name: TensorInfo(shape, torch.float32) for name, shape in tower_shapes(architecture).items()}
    base = Location.parse(str(root / "base.safetensors"))
    if not base.is_file():
        write_safetensors(base, infos, lambda name: base_weight(name, infos[name].shape, blocks, seed))
    weights = SafetensorsFile(base)
    for task in range(count):
        tuned = Location.parse(str(root / f"task{task}.safetensors"))

        def read(name: str, task: int = task) -> Tensor:
            weight = weights.read(name)
            return weight + update_of(weight, place_of(name, blocks), task, seed)

        if not tuned.is_file():
            write_safetensors(tuned, infos, read)
        _write_images(root / f"images{task}", task)


def write_recipe(root: Path, count: int, store: str = "store", alpha: float | None = None) -> Path:
    """Write the recipe of a merge of the first ``count`` fine-tunes below ``root``; returns its path.

    Parameters
    ----------
    store : str
        A folder below ``root``.
    alpha : float, optional
        Searched without labels where not given.
    """
    named = json.loads((root / "inputs.json").read_text())["model"]
    tasks = [
        {"name": f"task{n}", "checkpoint": f"task{n}.safetensors", "proxy": f"images{n}"}
        for n in range(count)
    ]
    content: dict[str, Any] = {
        "name": "bench",
        "store": store,
        "samples": SAMPLES,
        "base": {"architecture": _architecture(root, named), "checkpoint": "base.safetensors"},
        "tasks": tasks,
    }
    if alpha is not None:
        content["alpha"] = alpha
    recipe = root / f"recipe-{count}-{store}.yaml"
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    return recipe


def _claim(root: Path, made_of: dict[str, Any]) -> None:
    claim = root / "inputs.json"
    if claim.exists() and json.loads(claim.read_text()) != made_of:
        raise SystemExit(f"{root}: holds inputs of another kind ({claim}). Delete it, or use another folder.")
    if not claim.exists() and any(root.iterdir()):
        raise SystemExit(f"{root}: is not empty, and no benchmark wrote it. Use another folder.")
    claim.write_text(json.dumps(made_of))


def _architecture(root: Path, model: Architecture) -> str:
    return model if isinstance(model, str) else (root / "open_clip_config.json").absolute().as_uri()


def _write_images(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(SAMPLES):
        coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        if not path.exists():
            part = path.with_suffix(".tmp")
            image = Image.fromarray(np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)))
            image.save(part, format="PNG")
            part.replace(path)
