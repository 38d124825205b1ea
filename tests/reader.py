"""A reader's folder: everything that the documentation's commands and code name, small but real.

Two merges fill it: ``eight-tasks`` in the store ``models/esmerge`` (with experts, four versions), and the
demo's ``demo`` in ``.demo/store``. A version of ``pets`` is in ``store``.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from whole_merge import merge_whole
from world import World, add_validation, build_world, tell_apart, write_image

from esm_core.artifacts import Version, bytes_writer, publish_version
from esm_core.registry import Landing, land
from esm_core.storage import Location
from esm_core.store import prepare_store

TASKS = ("cars", "signs")

SUBSTITUTED = {
    "s3://models/": "{root}/models/",
    "s3://data/": "{root}/data/",
    "s3://BUCKET/": "{root}/",
    "STORE": "{root}/models/esmerge",
    "NAME": "eight-tasks",
    "VERSION": "1",
    "TASK": "cars",
    "DIR": "{root}/out",
    "v000012": "v000001",
}
"""What stands for the reader's own in the documentation, and what the tests put there.

Buckets become folders of the reader's; words in capitals are the ones that every page uses so.
"""


class Written(World):
    """A world whose recipe is a file as it stands."""

    path: Path

    @property
    def recipe_path(self) -> Path:
        return self.path


def written(path: Path) -> Written:
    world = Written(path.parent, yaml.safe_load(path.read_text()))
    world.path = path
    return world


def substituted(text: str, root: Path) -> str:
    """``text`` of the documentation with the names of this folder."""
    for name, own in SUBSTITUTED.items():
        text = text.replace(name, own.format(root=root))
    return text


def run_merge(recipe: str, workers: int) -> str:
    """What the flow does, without Prefect: its stages in the same order."""
    _, version = merge_whole(written(Path(recipe)))
    return version.folder.url


def build_folder(root: Path) -> None:
    """Write it all below ``root``."""
    world = _own_fine_tunes(root)
    _, version = merge_whole(world)
    for _ in range(3):
        _publish_again(Location.parse(str(root / "models" / "esmerge")), "eight-tasks", version)
    _publish_again(Location.parse(str(root / "store")), "pets", version)
    _land(root)
    _demo(root / ".demo")


def _own_fine_tunes(root: Path) -> World:
    world = build_world(root / "built", tasks=TASKS)
    tell_apart(world)
    for name in (*TASKS, "cats", "dogs"):
        source = TASKS[0] if name not in TASKS else name
        for folder, part in ((f"images/{name}", "proxy"), (f"images/{name}-test", "test")):
            shutil.copytree(world.root / source / part, root / folder)
        (root / "heads").mkdir(exist_ok=True)
        shutil.copy(world.root / f"{source}-head.safetensors", root / "heads" / f"{name}.safetensors")
        shutil.copy(world.root / f"{source}.safetensors", root / f"{name}.safetensors")
    change = load_file(root / "dogs.safetensors")
    torch.save({key: value + 0.01 for key, value in change.items()}, root / "dogs.pt")
    torch.save(torch.nn.Linear(2, 2), root / "model.pt")
    for name in ("base.safetensors", "config.json"):
        shutil.copy(world.root / name, root / name)
    (root / "models").mkdir()
    (root / "data").mkdir()
    shutil.rmtree(world.root)
    recipe: dict[str, Any] = {
        "name": "eight-tasks",
        "store": "models/esmerge",
        "base": {"architecture": "config.json", "checkpoint": "base.safetensors"},
        "tasks": [
            {
                "name": name,
                "checkpoint": f"{name}.safetensors",
                "proxy": f"images/{name}",
                "test": f"images/{name}-test",
                "head": f"heads/{name}.safetensors",
            }
            for name in TASKS
        ],
        "samples": 4,
        "alpha": 2.0,
        "experts": {"rank": 4, "proxies": 6},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return written(root / "recipe.yaml")


def _publish_again(store: Location, name: str, version: Version) -> None:
    """The same files as another version."""
    prepare_store(store)
    own = ("format", "name", "version", "created", "files", "digest")
    content = {key: value for key, value in version.manifest.items() if key not in own}
    files = {path: bytes_writer((version.folder / path).read_bytes()) for path in version.manifest["files"]}
    publish_version(store, name, files, content)


def _land(root: Path) -> None:
    for name in TASKS:
        landing = Landing(
            task=name,
            checkpoint=Location.parse(str(root / f"{name}.safetensors")),
            proxy=Location.parse(str(root / "images" / name)),
        )
        land(Location.parse(str(root / "models" / "registry")), landing)


def _demo(folder: Path) -> None:
    """Files where ``make demo`` has them, of the size of a test."""
    world = build_world(folder, tasks=("digits", "textures"))
    add_validation(world)
    shutil.move(folder / "config.json", folder / "open_clip_config.json")
    tasks = copy.deepcopy(world.recipe["tasks"])
    for task in tasks:
        name = task["name"]
        images = folder / "images" / name
        shutil.move(folder / name, images)
        shutil.copytree(images / "test", images / "val")
        (folder / "heads").mkdir(exist_ok=True)
        (folder / "experts").mkdir(exist_ok=True)
        shutil.move(folder / f"{name}-head.safetensors", folder / "heads" / f"{name}.safetensors")
        shutil.move(folder / f"{name}.safetensors", folder / "experts" / f"{name}.safetensors")
        task |= {
            "checkpoint": f"experts/{name}.safetensors",
            "proxy": f"images/{name}/proxy",
            "validation": f"images/{name}/val",
            "test": f"images/{name}/test",
            "head": f"heads/{name}.safetensors",
        }
        (images / "proxy" / "0.png").rename(images / "proxy" / "0000.png")
    for name, classes in {"cyrillic": "abc", "greek": "abc", "latin": "abc", "mnist": "0123456789"}.items():
        for number in range(4):
            for split in ("val", "test"):
                for label in classes:
                    write_image(folder / "images" / name / split / label / f"000{number}.png", seed=number)
    world.recipe |= {"name": "demo", "tasks": tasks, "experts": {"rank": 4, "proxies": 6}}
    world.recipe["base"]["architecture"] = "open_clip_config.json"
    merge_whole(World(folder, world.recipe))
    for stages in ("merges", "shifts", "bases", "experts"):  # fewer files to copy
        shutil.rmtree(folder / "store" / stages)
