"""Fine-tunes of the size of real ones: a tower of random weights, low-rank updates, noise images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from esm_core.architecture import load_architecture, tower_shapes
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

_IMAGES = 32
_RANK = 8


def write_fine_tunes(root: Path, model: Architecture, count: int) -> Path:
    """Write a base, ``count`` fine-tunes of it, 32 images each, and a recipe; returns the recipe's path."""
    recipe = root / "recipe.yaml"
    if recipe.exists():
        return recipe
    root.mkdir(parents=True, exist_ok=True)
    named = model if isinstance(model, str) else (root / "open_clip_config.json").as_uri()
    if not isinstance(model, str):
        (root / "open_clip_config.json").write_text(json.dumps(model))
    architecture = load_architecture(named, Location.parse(str(root)))
    generator = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        for name, shape in tower_shapes(architecture).items()
    }
    save_file(base, root / "base.safetensors")
    tasks = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number + 1)
        tuned = {name: value + _update(value, generator) for name, value in base.items()}
        save_file(tuned, root / f"task{number}.safetensors")
        _write_images(root / f"images{number}", number)
        place = {"checkpoint": f"task{number}.safetensors", "proxy": f"images{number}"}
        tasks.append({"name": f"task{number}", **place})
    content = {
        "name": "bench",
        "store": "store",
        "base": {"architecture": named, "checkpoint": "base.safetensors"},
        "tasks": tasks,
    }
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    return recipe


def _update(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A twentieth of the weight's norm, of decaying low rank where it is a matrix, and a little noise."""
    if weight.ndim != 2:
        return 0.01 * weight.std() * torch.randn(weight.shape, generator=generator)
    rows, columns = weight.shape
    left = torch.randn(rows, _RANK, generator=generator) * torch.logspace(0, -2, _RANK)
    update = left @ torch.randn(_RANK, columns, generator=generator)
    noise = 1e-4 * weight.std() * torch.randn(weight.shape, generator=generator)
    scaled: Tensor = 0.05 * weight.norm() * update / update.norm() + noise
    return scaled


def _write_images(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(_IMAGES):
        coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8))).save(folder / f"{number}.png")
