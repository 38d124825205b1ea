"""Two worlds of the same models and images; one of them needs the extensions of the page."""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from world import World, build_world

TASKS = ("cats", "dogs")


def own_world(root: Path) -> World:
    """A world whose fine-tunes have the base's projection, merged with all of its proxies."""
    world = build_world(root, tasks=TASKS)
    projection = load_file(root / "base.safetensors")["visual.proj"]
    for task in TASKS:
        save_file(
            load_file(root / f"{task}.safetensors") | {"visual.proj": projection},
            root / f"{task}.safetensors",
        )
    world.recipe |= {"samples": 6, "compare": [{"method": "average"}]}
    return world


def acme_world(root: Path) -> World:
    """The same with checkpoints of timm's names, images in .npz files, and TIES to compare with."""
    world = own_world(root)
    for task in world.recipe["tasks"]:
        path = root / task["checkpoint"]
        save_file(as_timm(load_file(path)), path)
        for images in ("proxy", "test"):
            task[images] = pack(root / task[images]).relative_to(root).as_posix()
    world.recipe["compare"].append({"method": "ties"})
    return world


def as_timm(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for a tower of open_clip; the projection is left out."""
    named = {}
    for name, tensor in tower.items():
        key = name.removeprefix("visual.").replace("transformer.resblocks", "blocks").replace(".c_fc", ".fc1")
        key = key.replace("ln_pre", "norm_pre").replace("ln_post", "norm").replace(".c_proj", ".fc2")
        key = key.replace(".ln_", ".norm").replace("in_proj_", "qkv.").replace("out_proj", "proj")
        key = key.replace("conv1", "patch_embed.proj")
        key = {"class_embedding": "cls_token", "positional_embedding": "pos_embed"}.get(key, key)
        named[key] = tensor.reshape(1, -1, tensor.shape[-1]) if key in ("cls_token", "pos_embed") else tensor
    del named["proj"]
    return {key: tensor.contiguous() for key, tensor in named.items()}


def pack(folder: Path) -> Path:
    """The PNG files of a folder as one .npz beside it, in the order of their names."""
    files = sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix())
    classes = sorted({path.parent for path in files})
    target = folder.with_suffix(".npz")
    labels = {"labels": np.array([classes.index(path.parent) for path in files])} if len(classes) > 1 else {}
    np.savez(target, images=np.stack([np.asarray(Image.open(path)) for path in files]), **labels)
    return target
