"""Small but real inputs: a tiny open_clip tower, fine-tunes of it, images, heads, and a recipe."""

import copy
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from esm_core.architecture import Architecture, load_architecture, tower_shapes
from esm_core.artifacts import open_version
from esm_core.inspection import inspect_base, inspect_task
from esm_core.layer_merges import merge_one
from esm_core.outline import outline
from esm_core.plan import Plan, make_plan
from esm_core.recipe_file import load_recipe
from esm_core.stage_collect import collect_task
from esm_core.storage import Location
from esm_core.survey import survey

VISION = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}
CLASSES = 3


@dataclass
class World:
    """A folder with everything a user has, and the recipe that names it."""

    root: Path
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe_path(self) -> Path:
        path = self.root / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe))
        return path

    @property
    def store(self) -> Location:
        return Location.parse(str(self.root / "store"))

    @property
    def architecture(self) -> Architecture:
        return load_architecture(
            (self.root / "config.json").as_uri(), Location.parse(str(self.root / "base.safetensors"))
        )

    def copied_to(self, root: Path) -> "World":
        """The same world, its store included, to be changed at will."""
        shutil.copytree(self.root, root)
        return World(root, copy.deepcopy(self.recipe))

    def upload_to(self, bucket: Location) -> None:
        """Everything but the store, below ``inputs``, with a recipe whose store is ``store``."""
        for path in sorted(self.root.rglob("*")):
            relative = path.relative_to(self.root)
            if path.is_file() and relative.parts[0] != "store":
                (bucket / "inputs" / str(relative)).write_bytes(path.read_bytes())
        recipe = {**self.recipe, "store": f"{bucket}/store"}
        (bucket / "inputs" / "recipe.yaml").write_bytes(json.dumps(recipe).encode())

    def task(self, name: str) -> dict[str, Any]:
        return next(task for task in self.recipe["tasks"] if task["name"] == name)


def write_image(path: Path, seed: int) -> None:
    """A 16x16 RGB PNG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def random_tower(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.5)
        for name, shape in sorted(shapes.items())
    }


def build_world(
    root: Path, tasks: tuple[str, ...] = ("cats", "dogs", "maps"), test: bool = True, embed_dim: int = 16
) -> World:
    """Write the base, one fine-tune per task, proxies, test images and heads below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": {"embed_dim": embed_dim, "vision_cfg": VISION, "text_cfg": TEXT},
        "preprocess_cfg": {"size": 16},
    }
    (root / "config.json").write_text(json.dumps(config))
    world = World(root)
    base = random_tower(tower_shapes(world.architecture), seed=0)
    save_file(base, root / "base.safetensors")
    specs = []
    for index, name in enumerate(tasks, start=1):
        change = random_tower({key: tuple(value.shape) for key, value in base.items()}, seed=index)
        save_file({k: v + 0.05 * change[k] for k, v in base.items()}, root / f"{name}.safetensors")
        for number in range(6):
            write_image(root / name / "proxy" / f"{number}.png", seed=100 * index + number)
        spec = {"name": name, "checkpoint": f"{name}.safetensors", "proxy": f"{name}/proxy"}
        if test:
            for number in range(6):
                write_image(root / name / "test" / f"class{number % CLASSES}" / f"{number}.png", seed=number)
            save_file({"weight": change["visual.proj"][:CLASSES].clone()}, root / f"{name}-head.safetensors")
            spec |= {"test": f"{name}/test", "head": f"{name}-head.safetensors"}
        specs.append(spec)
    world.recipe = {
        "name": "pets",
        "store": "store",
        "base": {"architecture": "config.json", "checkpoint": "base.safetensors"},
        "tasks": specs,
        "samples": 4,
        "alpha": 2.0,  # quick; the searches have tests of their own
    }
    return world


def tell_apart(world: World) -> None:
    """Give the images of every task a brightness of their own, so that a router can tell them apart."""
    for index, task in enumerate(world.recipe["tasks"]):
        for path in sorted((world.root / task["name"]).rglob("*.png")):
            pixels = np.asarray(Image.open(path)) // 4 + 96 * index
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def add_validation(world: World) -> None:
    """Give every task validation images: its test images."""
    for task in world.recipe["tasks"]:
        task["validation"] = task["test"]


def merge_layers(world: World) -> Plan:
    """Everything a merge does before α matters, without Prefect."""
    recipe = load_recipe(str(world.recipe_path))
    facts = [inspect_task(recipe, spec.name) for spec in recipe.tasks]
    plan = make_plan(outline(survey(recipe)), inspect_base(recipe), facts)
    for task in plan.tasks:
        collect_task(plan, task.name)
    for weight in plan.decomposed:
        merge_one(plan, weight)
    return plan


def weight_files(store: Location, name: str) -> dict[str, str]:
    """sha256 of every published safetensors file of the latest version."""
    folder = open_version(store, name).folder
    return {
        path: hashlib.sha256((folder / path).read_bytes()).hexdigest()
        for path in folder.files()
        if path.endswith(".safetensors")
    }
