"""Experts through the whole flow: made, measured, published, loaded; made again only where they must be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file
from services import Command
from torch import Tensor
from world import World, build_world, tell_apart

import esm_core
from deployments.local import run_merge
from esm_core.architecture import build_tower
from esm_core.experts import dense_weights
from esm_core.experts.version import version_experts
from esm_core.loading import LoadedModel
from esm_core.routing import IMAGE, base, oracle, record

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

TASKS = ("cats", "dogs", "maps")
LAYERS = {"attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"}


@pytest.fixture(scope="module")
def merged_once(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    world = build_world(tmp_path_factory.mktemp("experts") / "world")
    tell_apart(world)
    world.recipe["experts"] = {"rank": 4, "proxies": 5}
    run_merge(str(world.recipe_path), 2)
    return world


@pytest.fixture
def merged(merged_once: World, tmp_path: Path) -> World:
    """A world that was merged with experts once; it may be changed."""
    return merged_once.copied_to(tmp_path / "world")


def version_folder(world: World, number: int = 1, store: str = "store") -> Path:
    return world.root / store / "artifacts" / "pets" / f"v{number:06d}"


def published(world: World, number: int = 1, store: str = "store") -> dict[str, bytes]:
    """The safetensors files of a version."""
    folder = version_folder(world, number, store)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.safetensors")}


def manifest_of(world: World, number: int = 1) -> Any:
    return json.loads((version_folder(world, number) / "manifest.json").read_text())


def opened(world: World, number: int = 1, experts: bool = True) -> LoadedModel:
    return esm_core.load(str(world.root / "store"), "pets", number, experts=experts)


def labelled_images(world: World, loaded: LoadedModel) -> tuple[Tensor, list[int]]:
    """Every test image, and the place of its task."""
    paths = [(task, path) for task in TASKS for path in sorted((world.root / task / "test").rglob("*.png"))]
    images = torch.stack([loaded.preprocess(Image.open(path)) for _, path in paths])
    return images, [TASKS.index(task) for task, _ in paths]


def written(world: World, *stages: str) -> dict[str, int]:
    """When each file of these stages was written."""
    store = world.root / "store"
    return {
        str(path.relative_to(store)): path.stat().st_mtime_ns
        for stage in stages
        for path in (store / stage).rglob("*")
        if path.is_file()
    }


def without_tests(world: World) -> None:
    """Measure nothing from now on, which takes most of the time of so small a merge."""
    for task in world.recipe["tasks"]:
        del task["test"], task["head"]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_experts_are_published_measured_and_shown(merged: World, esmerge: Command) -> None:
    files = manifest_of(merged)["files"]
    assert {"experts/experts.safetensors", "experts/routing.json"} < set(files)
    routing = json.loads((version_folder(merged) / "experts" / "routing.json").read_text())
    assert routing["tasks"] == list(TASKS)
    assert set(routing["layers"]) == LAYERS
    assert (routing["rank"], routing["extras"], routing["scope"]) == (4, True, "image")
    assert routing["left_static"] == []
    metrics = manifest_of(merged)["metrics"]
    for method in ("esm_pp_route", "esm_pp_oracle"):
        assert set(metrics["accuracy"][method]) == set(TASKS)
    assert metrics["routing_accuracy"] == dict.fromkeys(TASKS, 1.0)
    assert metrics["routing"][IMAGE]["dogs"] == {"cats": 0, "dogs": 6, "maps": 0}
    facts = manifest_of(merged)["experts"]
    assert facts["bytes"] == files["experts/experts.safetensors"]["bytes"]
    assert facts["held_out"][facts["router"]]["accuracy"] > 0.9
    assert len(facts["held_out"][facts["router"]]["confusion"]) == 3
    shown = esmerge("show", "--store", merged.store, "pets").out
    assert "(routed)" in shown
    assert "(oracle)" in shown
    assert "experts: rank 4" in shown
    assert esmerge("verify", "--store", merged.store, "pets").code == 0


def test_every_image_finds_its_expert_and_gets_the_features_of_its_dense_tower(merged: World) -> None:
    loaded = opened(merged)
    images, tasks = labelled_images(merged, loaded)
    with torch.inference_mode(), record(loaded.model) as found:
        features = loaded.model.encode_image(images)
    assert found.decisions[IMAGE].tolist() == tasks
    static = load_file(version_folder(merged) / "model" / "open_clip_model.safetensors")
    tower = {name: tensor for name, tensor in static.items() if name.startswith("visual.")}
    experts = version_experts(esm_core.artifacts.open_version(merged.store, "pets"))
    for index, task in enumerate(TASKS):
        dense = build_tower(merged.architecture, dense_weights(experts, tower, task), "cpu", torch.float32)
        own = [row for row, its in enumerate(tasks) if its == index]
        with torch.inference_mode():
            assert relative(features[own], dense(images[own])) < 1e-5


def test_without_experts_the_same_version_is_the_static_model(merged: World) -> None:
    routed, plain = opened(merged), opened(merged, experts=False)
    images, _ = labelled_images(merged, plain)
    with torch.inference_mode(), base(routed.model):
        assert torch.equal(routed.model.encode_image(images), plain.model.encode_image(images))


def test_at_full_rank_oracle_is_the_fine_tune_on_its_proxies(
    make_world: Callable[..., World], esmerge: Command
) -> None:
    world = make_world("full", embed_dim=32)
    world.recipe |= {"experts": {"rank": 32}, "samples": 6}
    without_tests(world)
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    loaded = opened(world)
    for task in TASKS:
        paths = sorted((world.root / task / "proxy").glob("*.png"))
        images = torch.stack([loaded.preprocess(Image.open(path)) for path in paths])
        weights = load_file(world.root / f"{task}.safetensors")
        with torch.inference_mode():
            expected = build_tower(world.architecture, weights, "cpu", torch.float32)(images)
            with base(loaded.model):
                assert relative(loaded.model.encode_image(images), expected) > 1e-2
            with oracle(loaded.model, task):
                assert relative(loaded.model.encode_image(images), expected) < 1e-4


def test_a_second_run_is_up_to_date_and_writes_nothing(merged: World, esmerge: Command) -> None:
    # Copies have other times of change than what the ledger noted, so the inputs are inspected once more.
    assert "up to date" in esmerge("merge", merged.recipe_path).out
    before = written(merged, "")
    again = esmerge("merge", merged.recipe_path)
    assert again.code == 0
    assert "up to date" in again.out
    assert written(merged, "") == before


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"rank": 2}, ["routers"]),
        ({"dtype": "float16"}, ["routers", "experts"]),
        ({"router": "token_moments"}, ["experts"]),
        ({"proxies": 3}, ["experts"]),
        ({"layers": ["mlp.c_fc"]}, ["routers", "experts"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_changed_setting_redoes_only_what_it_touches(
    merged: World, esmerge: Command, changes: dict[str, Any], kept: list[str]
) -> None:
    without_tests(merged)
    kept = [*kept, "shifts", "merges", "static"]
    before = written(merged, *kept)
    merged.recipe["experts"] |= changes
    done = esmerge("merge", merged.recipe_path)
    assert done.code == 0, done.err
    assert "published pets v000002" in done.out
    assert written(merged, *kept) == before
    first, second = published(merged, 1), published(merged, 2)
    assert first["experts/experts.safetensors"] != second["experts/experts.safetensors"]
    assert first["model/open_clip_model.safetensors"] == second["model/open_clip_model.safetensors"]
    assert (
        manifest_of(merged, 2)["experts"]["settings"] == manifest_of(merged)["experts"]["settings"] | changes
    )
    with torch.inference_mode(), oracle(opened(merged, 2).model, "dogs"):
        assert opened(merged, 2).model.encode_image(torch.zeros(1, 3, 16, 16)).isfinite().all()


def test_a_merge_without_experts_publishes_the_same_static_weights(merged: World, esmerge: Command) -> None:
    without_tests(merged)
    del merged.recipe["experts"]
    assert "published pets v000002" in esmerge("merge", merged.recipe_path).out
    with_experts, without = published(merged, 1), published(merged, 2)
    assert set(without) == {"model/open_clip_model.safetensors"}
    assert without["model/open_clip_model.safetensors"] == with_experts["model/open_clip_model.safetensors"]
    assert manifest_of(merged, 2)["experts"] is None
    with pytest.raises(esm_core.InputError, match=r"pets v000002 was published without experts; merge with"):
        opened(merged, 2)
    assert opened(merged, 1).model is not None


def test_float16_halves_the_experts_and_changes_little(merged: World, esmerge: Command) -> None:
    images, tasks = labelled_images(merged, opened(merged))
    without_tests(merged)
    merged.recipe["experts"]["dtype"] = "float16"
    assert esmerge("merge", merged.recipe_path).code == 0
    full, half = opened(merged, 1), opened(merged, 2)
    low_rank = {k: t.dtype for k, t in load(published(merged, 2)["experts/experts.safetensors"]).items()}
    assert {dtype for key, dtype in low_rank.items() if key.startswith("router/")} == {torch.float32}
    assert {dtype for key, dtype in low_rank.items() if not key.startswith("router/")} == {torch.float16}
    with torch.inference_mode(), record(half.model) as found:
        assert relative(half.model.encode_image(images), full.model.encode_image(images)) < 1e-2
    assert found.decisions[IMAGE].tolist() == tasks


def test_the_published_configuration_decides_in_every_layer(world: World, esmerge: Command) -> None:
    layers = ["attn.in_proj", "mlp.c_fc"]
    world.recipe["experts"] = {
        "layers": layers,
        "rank": 32,
        "extras": False,
        "router": "cosine",
    }
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    names = {
        f"visual.transformer.resblocks.{index}.{layer}"
        for index in range(2)
        for layer in ("attn.in_proj_weight", "mlp.c_fc.weight")
    }
    manifest = manifest_of(world)
    assert set(manifest["metrics"]["routing"]) == names
    assert set(manifest["metrics"]["routing_accuracy"]) == set(TASKS)
    assert (manifest["experts"]["router"], manifest["experts"]["scope"]) == ("cosine", "layer")
    loaded = opened(world)
    with torch.inference_mode(), record(loaded.model) as found:
        loaded.model.encode_image(labelled_images(world, loaded)[0])
    assert set(found.decisions) == names
    left = json.loads((version_folder(world) / "experts" / "routing.json").read_text())["left_static"]
    assert len(left) == len(load_file(world.root / "base.safetensors")) - len(names)


def test_two_stores_hold_the_same_bytes_whatever_the_order_of_tasks(merged: World, esmerge: Command) -> None:
    without_tests(merged)
    merged.recipe["store"] = "another"
    merged.recipe["tasks"].reverse()
    assert esmerge("merge", merged.recipe_path, "--workers", 1).code == 0
    first, second = published(merged), published(merged, store="another")
    assert second == {path: data for path, data in first.items() if not path.startswith("heads/")}
    configs = [
        (version_folder(merged, store=s) / "experts/routing.json").read_bytes() for s in ("store", "another")
    ]
    assert configs[0] == configs[1]
