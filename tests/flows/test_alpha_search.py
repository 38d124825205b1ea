"""The search for α in the whole flow: what is published, what is kept, what is not done again."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from services import Command
from torch.nn import functional
from world import World, add_validation, merge_layers, write_image

import esm_core
from esm_core.alpha.proxy_features import read_references
from esm_core.alpha.scores import displacement_cosine
from esm_core.architecture import preprocess
from esm_core.images import open_images
from esm_core.images.decode import decode
from esm_core.storage import Location

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def published(world: World, esmerge: Command) -> dict[str, Any]:
    """The manifest of a merge of the world."""
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    manifest: dict[str, Any] = json.loads(esmerge("show", "--store", world.store, "pets", "--json").out)
    return manifest


def weights(world: World) -> bytes:
    return (world.root / "store/artifacts/pets/v000001/model/open_clip_model.safetensors").read_bytes()


def test_a_label_free_merge_publishes_the_best_alpha_and_the_curve(
    make_world: Callable[..., World], esmerge: Command
) -> None:
    world = make_world("unlabelled", test=False)
    del world.recipe["alpha"]
    manifest = published(world, esmerge)
    search = manifest["alpha_search"]
    assert (manifest["recipe"]["alpha"], search["method"]) == ("label_free", "label_free")
    curve = dict(search["curve"])
    assert [alpha for alpha, _ in search["curve"]] == sorted(curve)
    assert len(curve) == 11
    assert curve[manifest["alpha"]] == max(curve.values())
    shown = esmerge("show", "--store", world.store, "pets").out
    assert f"alpha {manifest['alpha']} (label_free search: best of 11 values" in shown
    assert f"alpha: label_free ({manifest['alpha']})" in esmerge("plan", world.recipe_path).out

    # The published model, from its file, has the score that the search saw.
    plan, scores = merge_layers(world), []
    model = esm_core.load(str(world.root / "store"), "pets").model
    for task in plan.tasks:
        source = open_images(Location.parse(task.spec.proxy))
        images = [
            preprocess(plan.architecture)(decode(sample, source.location))
            for sample in source.read(task.facts.proxies)
        ]
        with torch.inference_mode():
            features = functional.normalize(model.encode_image(torch.stack(images)).double(), dim=-1)
        scores.append(displacement_cosine(features, *read_references(plan, task.name)))
    assert curve[manifest["alpha"]] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_a_validation_merge_publishes_the_alpha_with_the_best_mean_accuracy(
    world: World, esmerge: Command
) -> None:
    add_validation(world)
    world.recipe["alpha"] = "validation"
    manifest = published(world, esmerge)
    assert manifest["alpha_search"]["method"] == "validation"
    curve = dict(manifest["alpha_search"]["curve"])
    # Here the validation images are the test images.
    measured = manifest["metrics"]["accuracy"]["esm"].values()
    assert curve[manifest["alpha"]] == max(curve.values()) == pytest.approx(sum(measured) / len(measured))


def test_a_searched_alpha_and_the_same_number_in_the_recipe_give_the_same_bytes(
    make_world: Callable[..., World], esmerge: Command
) -> None:
    searched, fixed = make_world("searched", test=False), make_world("fixed", test=False)
    searched.recipe["alpha"] = "label_free"
    fixed.recipe["alpha"] = published(searched, esmerge)["alpha"]
    manifest = published(fixed, esmerge)
    assert manifest["alpha_search"] == {"method": "fixed", "curve": []}
    assert weights(fixed) == weights(searched)
    assert not list((fixed.root / "store").glob("lines"))
    assert "(fixed)" in esmerge("show", "--store", fixed.store, "pets").out


@pytest.mark.parametrize(
    "forgotten", [["artifacts"], ["artifacts", "alphas"], ["artifacts", "alphas", "static"]]
)
def test_a_second_run_evaluates_no_alpha_again(
    make_world: Callable[..., World],
    esmerge: Command,
    monkeypatch: pytest.MonkeyPatch,
    forgotten: list[str],
) -> None:
    world = make_world("twice", test=False)
    world.recipe["alpha"] = "label_free"
    first = published(world, esmerge)
    bytes_before = weights(world)
    assert "up to date" in esmerge("merge", world.recipe_path).out
    for folder in forgotten:
        shutil.rmtree(world.root / "store" / folder)
    monkeypatch.delattr("esm_core.alpha.scores.build_tower")
    monkeypatch.delattr("esm_core.alpha.proxy_features.build_tower")
    again = published(world, esmerge)
    assert (again["alpha"], again["alpha_search"]) == (first["alpha"], first["alpha_search"])
    assert again["identity"] == first["identity"]
    assert weights(world) == bytes_before


@pytest.mark.parametrize(("method", "version"), [("validation", "v000002"), ("label_free", "v000001")])
def test_other_validation_images_matter_to_the_search_that_uses_them(
    world: World, esmerge: Command, method: str, version: str
) -> None:
    add_validation(world)
    world.recipe["alpha"] = method
    published(world, esmerge)
    world.task("dogs")["validation"] = "dogs/other"
    write_image(world.root / "dogs" / "other" / "class0" / "0.png", seed=99)
    again = esmerge("merge", world.recipe_path)
    assert again.code == 0, again.err
    versions = json.loads(esmerge("versions", "--store", world.store, "pets", "--json").out)
    assert f"v{versions[-1]['version']:06d}" == version
