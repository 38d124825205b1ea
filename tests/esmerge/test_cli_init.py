"""``esmerge init``: a recipe from a folder of checkpoints, ready to merge or saying what is missing."""

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from services import Command, S3Server
from world import World, write_image

from esm_core.recipe import Recipe
from esm_core.recipe_file import load_recipe
from esm_core.storage import Location


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def initialised(esmerge: Command, folder: Path, *options: object) -> dict[str, Any]:
    """What ``init --json`` says; the recipe is ``made.yaml`` in the folder."""
    done = esmerge("init", folder, "-o", folder / "made.yaml", "--json", *options)
    assert (done.code, done.err) == (0, ""), done.err
    facts: dict[str, Any] = json.loads(done.out)
    return facts


def paths(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Task → field → path or URL, without what is not set."""
    fields = ("checkpoint", "proxy", "validation", "test", "head")
    return {t.name: {f: getattr(t, f) for f in fields if getattr(t, f)} for t in recipe.tasks}


def demo_layout(world: World, root: Path) -> Path:
    """The world's files in the folders of the demo: images/TASK, heads/TASK, experts/TASK."""
    for task in ("cats", "dogs", "maps"):
        shutil.copytree(world.root / task / "proxy", root / "images" / task / "proxy")
        shutil.copytree(world.root / task / "test", root / "images" / task / "val")
        (root / "experts").mkdir(exist_ok=True)
        (root / "heads").mkdir(exist_ok=True)
        shutil.copy(world.root / f"{task}-head.safetensors", root / "heads" / f"{task}.safetensors")
    shutil.copytree(world.root / "cats/test", root / "images/cats/test")
    with tarfile.open(root / "images/dogs/test.tar", "w") as archive:
        for number, image in enumerate(sorted((world.root / "dogs/test").rglob("*.png"))):
            archive.add(image, f"{number}.png")
            label = tarfile.TarInfo(f"{number}.cls")
            label.size = 1
            archive.addfile(label, io.BytesIO(str(number // 2).encode()))
    shutil.copy(world.root / "cats.safetensors", root / "experts")
    torch.save(load_file(world.root / "dogs.safetensors"), root / "experts" / "dogs.pt")
    maps = load_file(world.root / "maps.safetensors")
    save_file(
        {f"model.{name}": tensor for name, tensor in maps.items()}, root / "experts" / "maps.safetensors"
    )
    shutil.copy(world.root / "base.safetensors", root)
    shutil.copy(world.root / "config.json", root / "open_clip_config.json")
    return root


@pytest.fixture
def demo(world: World, tmp_path: Path) -> Path:
    return demo_layout(world, tmp_path / "demo")


def test_the_layout_of_the_demo_is_a_recipe_without_a_question(demo: Path, esmerge: Command) -> None:
    facts = initialised(esmerge, demo)
    assert (facts["todo"], facts["left_out"], facts["samples"]) == ([], {}, 6)
    assert facts["next"] == f"esmerge plan {demo}/made.yaml"
    recipe = load_recipe(str(demo / "made.yaml"))
    url = demo.as_uri()
    assert recipe.base.checkpoint == f"{url}/base.safetensors"
    assert recipe.base.architecture == f"{url}/open_clip_config.json"
    assert paths(recipe)["dogs"] == {
        "checkpoint": f"{url}/experts/dogs.pt",
        "proxy": f"{url}/images/dogs/proxy",
        "validation": f"{url}/images/dogs/val",
        "test": f"{url}/images/dogs/test.tar",
        "head": f"{url}/heads/dogs.safetensors",
    }
    assert "test" not in paths(recipe)["maps"]
    assert yaml.safe_load((demo / "made.yaml").read_text())["tasks"][0]["proxy"] == "images/cats/proxy"
    planned = esmerge("plan", demo / "made.yaml", "--json")
    assert planned.code == 0, planned.err


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_the_recipe_of_the_demos_layout_merges_as_it_is(demo: Path, esmerge: Command) -> None:
    initialised(esmerge, demo)
    merged = esmerge("merge", demo / "made.yaml", "--quiet", "--json")
    assert (merged.code, merged.err) == (0, "")
    assert json.loads(merged.out)["version"] == "v000001"
    before = (demo / "made.yaml").read_text()
    facts = initialised(esmerge, demo, "--force")
    assert facts["left_out"] == {}
    assert (demo / "made.yaml").read_text() == before, "the store in the folder is no checkpoint"


def test_a_flat_folder_is_the_recipe_that_its_owner_would_write(world: World, esmerge: Command) -> None:
    facts = initialised(esmerge, world.root)
    assert facts["todo"] == []
    known = {**world.recipe, "samples": 6}
    (world.root / "known.yaml").write_text(yaml.safe_dump(known))
    assert paths(load_recipe(str(world.root / "made.yaml"))) == paths(
        load_recipe(str(world.root / "known.yaml"))
    )


def test_what_is_missing_is_marked_and_said(world: World, esmerge: Command) -> None:
    (world.root / "base.safetensors").rename(world.root / "start.safetensors")
    (world.root / "config.json").unlink()
    shutil.rmtree(world.root / "cats" / "proxy")
    (world.root / "maps-head.safetensors").unlink()
    done = esmerge("init", world.root, "-o", world.root / "made.yaml")
    assert done.code == 0, done.err
    for said in (
        "TODO          base.checkpoint: ",
        "TODO          base.architecture: no model of open_clip has its shapes (width 32",
        "TODO          task cats: proxy",
        "left out: 'maps/test needs a head",
        "Next: fill in what is marked TODO, then esmerge plan ",
    ):
        assert said in done.out, done.out
    text = (world.root / "made.yaml").read_text()
    assert text.count("# TODO:") == 4, "the base, which looks like one more task, too"
    assert "    # left out: maps/test needs a head" in text
    refused = esmerge("plan", world.root / "made.yaml")
    assert refused.code == 2
    assert "base.checkpoint: " in refused.err
    facts = initialised(esmerge, world.root, "--force", "--base", world.root / "start.safetensors")
    assert [item.split(":")[0] for item in facts["todo"]] == ["base.architecture", "task cats"]


def test_test_images_are_never_proxies(world: World, esmerge: Command) -> None:
    shutil.rmtree(world.root / "cats" / "proxy")
    write_image(world.root / "cats" / "stray.png", seed=1)
    facts = initialised(esmerge, world.root)
    assert facts["tasks"]["cats"]["proxy"] is None
    assert facts["tasks"]["cats"]["test"].endswith("/cats/test")


def test_what_cannot_be_used_is_left_out_and_nothing_is_unpickled(
    world: World, esmerge: Command, tmp_path: Path
) -> None:
    exploded = tmp_path / "exploded"
    (world.root / "pickled.pt").write_bytes(pickle.dumps(Bomb(exploded)))
    torch.save(Bomb(exploded), world.root / "module.pt")
    save_file({"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}, world.root / "small.safetensors")
    (world.root / "page.safetensors").write_text("<html>")
    (world.root / "training_args.bin").write_bytes(pickle.dumps(Bomb(exploded)))
    (world.root / ".hidden.pt").write_bytes(b"x")
    facts = initialised(esmerge, world.root)
    assert sorted(facts["left_out"]) == ["module.pt", "page.safetensors", "pickled.pt", "small.safetensors"]
    assert "esmerge convert" in facts["left_out"]["pickled.pt"]
    assert "of the base are missing" in facts["left_out"]["small.safetensors"]
    assert sorted(facts["tasks"]) == ["cats", "dogs", "maps"]
    assert not exploded.exists()


HOSTILE = [
    "a b",
    "#c",
    "d: e",
    "'f\"",
    "{g}",
    "- h",
    "*i",
    "~j",
    "k\nl",
    "[red]m",
    "é",
    "n@o",
    "p%20q",
    "local-dir:r",
]


def test_hostile_file_names_are_named_as_they_are(world: World, esmerge: Command) -> None:
    tensors = load_file(world.root / "cats.safetensors")
    for name in HOSTILE:
        save_file(tensors, world.root / f"{name}.safetensors")
    facts = initialised(esmerge, world.root)
    tasks = yaml.safe_load((world.root / "made.yaml").read_text())["tasks"]
    folder = Location.parse(str(world.root))
    named = {
        Location.parse(t["checkpoint"].removeprefix("local-dir:"), folder / "made.yaml").name for t in tasks
    }
    assert named >= {f"{name}.safetensors" for name in HOSTILE}
    assert len(facts["tasks"]) == len(HOSTILE) + 3
    text = esmerge("init", world.root, "-o", world.root / "made.yaml", "--force")
    assert "[red]m.safetensors" in text.out
    assert "k\nl" not in text.out


def test_a_name_that_is_no_text_cannot_be_in_a_recipe(world: World, esmerge: Command) -> None:
    data = (world.root / "cats.safetensors").read_bytes()
    with open(os.fsencode(world.root) + b"/\xff.safetensors", "wb") as stream:
        stream.write(data)
    done = esmerge("init", world.root, "-o", world.root / "made.yaml")
    assert (done.code, "rename it" in done.err, "Traceback" in done.err) == (2, True, False)
    assert not (world.root / "made.yaml").exists()


def test_a_recipe_is_not_overwritten(world: World, esmerge: Command) -> None:
    (world.root / "made.yaml").write_text("mine")
    refused = esmerge("init", world.root, "-o", world.root / "made.yaml")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert (world.root / "made.yaml").read_text() == "mine"


def test_a_folder_without_a_fine_tune_is_refused(tmp_path: Path, esmerge: Command) -> None:
    for folder, said in ((tmp_path, "holds no fine-tune"), (tmp_path / "nowhere", "no such folder")):
        refused = esmerge("init", folder, "-o", tmp_path / "made.yaml")
        assert (refused.code, said in refused.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_a_folder_on_s3(world: World, esmerge: Command, s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    world.upload_to(bucket)
    store = f"{bucket}/store"
    made = tmp_path / "made.yaml"
    done = esmerge("init", f"{bucket}/inputs", "-o", made, "--store", store, "--json")
    assert done.code == 0, done.err
    recipe = load_recipe(str(made))
    assert (recipe.store, recipe.base.checkpoint) == (store, f"{bucket}/inputs/base.safetensors")
    assert paths(recipe)["dogs"]["proxy"] == f"{bucket}/inputs/dogs/proxy"
