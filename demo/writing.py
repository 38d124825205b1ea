"""Writing what a user has before a merge: images, heads, checkpoints, configuration, recipe."""

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from demo.data import Task
from demo.splits import Split
from demo.training import ARCHITECTURE, State

PROXIES = 128

AS_TORCH_FILE = "mnist"
"""The task whose fine-tune is a ``.pt`` state dict, as many are."""

WITH_MODEL_PREFIX = "textures"
"""The task whose fine-tune has ``model.visual.`` keys, as task-arithmetic code writes them."""

AS_TAR = "digits"
"""The task whose test images are a webdataset tar."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, also after Ctrl-C."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_images(folder: Path, task: Task) -> None:
    """Unlabelled proxies from the training images; validation and test images in class folders."""
    for index in range(min(PROXIES, len(task.train.labels))):
        step = len(task.train.labels) // PROXIES or 1
        write_atomically(folder / "proxy" / f"{index:04d}.png", _png(task.train, index * step))
    _write_labelled(folder / "val", task.val, task.classes)
    if task.name == AS_TAR:
        write_atomically(folder / "test.tar", _tar(task.test))
    else:
        _write_labelled(folder / "test", task.test, task.classes)


def _write_labelled(folder: Path, split: Split, classes: Sequence[str]) -> None:
    for index, label in enumerate(split.labels):
        write_atomically(folder / classes[label] / f"{index:04d}.png", _png(split, index))


def _png(split: Split, index: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(split.images[index]).save(stream, "png")
    return stream.getvalue()


def _tar(split: Split) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for index, label in enumerate(split.labels):
            for suffix, data in (("png", _png(split, index)), ("cls", str(int(label)).encode())):
                member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def write_heads(folder: Path, heads: dict[str, Tensor]) -> None:
    """One linear head per task: ``weight`` ``[classes, 64]``, rows in the order of the class folders."""
    for name, weight in heads.items():
        write_atomically(folder / f"{name}.safetensors", save({"weight": weight.contiguous()}))


def write_tower(path: Path, state: State) -> None:
    """A vision tower with ``visual.`` keys as safetensors."""
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in state.items()}))


def read_tensors(path: Path) -> State:
    """The tensors of a safetensors file."""
    return load_file(path)


def expert_path(folder: Path, name: str) -> Path:
    return folder / f"{name}{'.pt' if name == AS_TORCH_FILE else '.safetensors'}"


def write_expert(path: Path, name: str, state: State) -> None:
    """A fine-tune, in one of the three forms that people have."""
    if name == AS_TORCH_FILE:
        stream = io.BytesIO()
        torch.save(state, stream)
        write_atomically(path, stream.getvalue())
    else:
        prefix = "model." if name == WITH_MODEL_PREFIX else ""
        write_tower(path, {prefix + key: tensor for key, tensor in state.items()})


def write_config(path: Path) -> None:
    """The ``open_clip_config.json`` of the demo's model."""
    content = {"model_cfg": ARCHITECTURE.model_cfg, "preprocess_cfg": ARCHITECTURE.preprocess_cfg}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def write_recipe(path: Path, names: Sequence[str]) -> None:
    """The recipe, with comments: it is the first one a newcomer sees."""
    tasks = "\n".join(
        f"""  - name: {name}
    checkpoint: experts/{expert_path(Path(), name).name}
    proxy: images/{name}/proxy
    validation: images/{name}/val
    test: images/{name}/test{".tar" if name == AS_TAR else ""}
    head: heads/{name}.safetensors"""
        for name in names
    )
    text = f"""# What to merge, how, and where the result goes. Paths are relative to this file; s3:// works.
name: demo                  # the artifact; every merge that differs publishes a new version of it
store: store                # a folder or s3://bucket/prefix

base:
  architecture: open_clip_config.json   # or an open_clip name such as ViT-B-32-quickgelu
  checkpoint: base.safetensors          # full CLIP or vision tower

# Each task: a fine-tune of the base and a folder, tar or Parquet of unlabelled proxy images. Labelled test
# images and a head are optional; with them the accuracy table is made.
tasks:
{tasks}

samples: 32                 # proxy images per task
alpha: label_free           # merging coefficient: searched on the proxy images; or a number, 0 to 4

# ESM++: low-rank experts beside the merged model, and a router by which every image finds its own.
experts:
  rank: 16                  # an eighth of the model's width

# Baselines to show beside ESM in the table.
compare:
  - method: average
  - method: task_arithmetic
  - method: tsv_m
  - method: iso_c
"""
    write_atomically(path, text.encode())
