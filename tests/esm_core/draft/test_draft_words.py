"""What the names of files and folders are taken for."""

import pytest

from esm_core.draft.words import head_key, image_key, is_base, is_role, role_of, task_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["experts/cars.pt", "experts/signs.safetensors"], ["cars", "signs"]),
        (["vit-b32-cars.pt", "vit-b32-signs.pt"], ["cars", "signs"]),
        (["cars_finetuned.pt", "signs_finetuned.pt"], ["cars", "signs"]),
        (["Cars/nonlinear_finetuned.pt", "SUN397/nonlinear_finetuned.pt"], ["Cars", "SUN397"]),
        (["cars/checkpoint-500", "signs/checkpoint-700"], ["cars", "signs"]),
        (["a/cars.pt", "b/cars.pt"], ["cars", "cars-2"]),
        (["cifar-10.pt", "cifar-100.pt"], ["10", "100"]),
        (["vit-cars.pt"], ["vit-cars"]),
        (["model.pt", "weights.pt"], ["model", "weights"]),
        (["ca rs\n.pt", "..é.pt", "-x.pt", "'\"#.pt"], ["ca-rs", "task", "x", "task-2"]),
    ],
)
def test_tasks_are_named_for_what_sets_them_apart(paths: list[str], names: list[str]) -> None:
    assert list(task_names(paths).values()) == names


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("base.safetensors", True),
        ("pretrained/model.safetensors", True),
        ("zeroshot.pt", True),
        ("zero-shot.pt", True),
        ("openai.pt", True),
        ("clip_base_model.bin", True),
        ("base-cars.pt", False),
        ("clip-vit-base-patch32", False),
        ("model.pt", False),
        ("baseball.pt", False),
    ],
)
def test_a_base_is_known_by_its_name(path: str, base: bool) -> None:
    assert is_base(path) is base


def test_images_and_heads_are_known_by_the_task_in_their_names() -> None:
    assert [image_key(n) for n in ("cars", "Stanford_Cars-test", "cars_images", "cars-000001")] == [
        "cars",
        "stanfordcars",
        "cars",
        "cars",
    ]
    assert [image_key(n) for n in ("photos", "cifar-10", "test")] == ["photos", "cifar10", ""]
    assert [role_of(n) for n in ("cars-val", "test.tar", "cars")] == ["validation", "test", ""]
    assert [is_role(n) for n in ("val", "test_images", "cars-test", "images")] == [True, True, False, False]
    heads = ("heads/cars.pt", "head_Cars.pt", "cars-head.safetensors", "cars/head.safetensors")
    assert {head_key(path) for path in heads} == {"cars"}
