"""The demo's images: real, in disjoint splits, the same every time, and seen by open_clip as trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from demo.data import Task, load_tasks
from demo.letters import SCRIPTS
from demo.photos import share_blocks
from demo.splits import SPLITS, Sizes
from demo.training import ARCHITECTURE, blur_head, to_tensor
from demo.writing import write_images, write_recipe
from esm_core.architecture import preprocess
from esm_core.images import open_images
from esm_core.images.decode import decode
from esm_core.recipe_file import load_recipe
from esm_core.storage import Location

SIZES = Sizes(train=128, val=64, test=64)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return load_tasks(0, SIZES, fashion_mnist=Path("not installed"))


def test_seven_tasks_of_images_come_with_pip_packages(tasks: list[Task]) -> None:
    assert [t.name for t in tasks] == ["digits", "mnist", "photos", "textures", "latin", "greek", "cyrillic"]
    for task in tasks:
        assert list(task.classes) == sorted(task.classes)
        for _, split in task.splits():
            assert split.images.shape[1:] == (32, 32, 3)
            assert split.images.dtype == np.uint8
            assert set(split.labels) <= set(range(len(task.classes)))


def test_no_image_is_in_two_splits(tasks: list[Task]) -> None:
    for task in tasks:
        seen = [{image.tobytes() for image in split.images} for _, split in task.splits()]
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]


def test_photographs_are_split_by_block_and_letters_by_font() -> None:
    blocks = share_blocks(512, 300, np.random.default_rng(0))
    covered = np.zeros((300, 512), dtype=int)
    for split in SPLITS:
        for left, top, right, bottom in blocks[split]:
            covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    for script in SCRIPTS:
        fonts = [set(script.fonts[split]) for split in SPLITS]
        assert len(set.union(*fonts)) == sum(map(len, fonts))


def test_the_same_seed_gives_the_same_images(tasks: list[Task]) -> None:
    again = load_tasks(0, SIZES, fashion_mnist=Path("not installed"))
    for first, second in zip(tasks, again, strict=True):
        assert np.array_equal(first.test.images, second.test.images)


def test_training_sees_what_open_clip_makes_of_the_files(tmp_path: Path, tasks: list[Task]) -> None:
    task = tasks[0]
    write_images(tmp_path, task)
    source = open_images(Location.parse(str(tmp_path / "test.tar")))
    samples = list(source.read_all())
    assert [sample.label for sample in samples] == task.test.labels.tolist()
    transform = preprocess(ARCHITECTURE)
    seen = torch.stack([transform(decode(sample, source.location)) for sample in samples])
    torch.testing.assert_close(seen, to_tensor(task.test.images), rtol=0, atol=1e-6)
    folder = open_images(Location.parse(str(tmp_path / "val")))
    assert folder.class_names == tuple(sorted(task.classes))


def test_heads_are_blurred_by_as_much_as_asked() -> None:
    head = torch.nn.functional.normalize(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(blur_head(head, 0.0, 1), head)
    cosine = (blur_head(head, 1.2, 1) * head).sum(-1).mean()
    assert 0.45 < cosine < 0.8


def test_the_recipe_parses(tmp_path: Path, tasks: list[Task]) -> None:
    write_recipe(tmp_path / "recipe.yaml", [task.name for task in tasks])
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    assert recipe.name == "demo"
    assert recipe.alpha == "label_free"
    assert recipe.experts is not None
    assert {spec.method for spec in recipe.compare} == {"average", "task_arithmetic", "tsv_m", "iso_c"}
