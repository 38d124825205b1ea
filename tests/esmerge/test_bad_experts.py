"""Experts that cannot be: one clear message on standard error, no traceback, nothing published."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import publish, published_experts
from services import Command
from world import World, build_world, write_image

import esm_core
from deployments.local import run_merge
from esm_core.errors import NewerFormatError

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

C_FC = "visual.transformer.resblocks.0.mlp.c_fc.weight"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Without test images, so that nothing is evaluated."""
    return make_world("world", test=False)


@pytest.fixture(scope="module")
def merged_once(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    world = build_world(tmp_path_factory.mktemp("experts") / "world", test=False)
    world.recipe["experts"] = {"rank": 4}
    run_merge(str(world.recipe_path), 2)
    return world


@pytest.fixture
def merged(merged_once: World, tmp_path: Path) -> World:
    """A world that was merged with experts once; its store may be damaged."""
    return merged_once.copied_to(tmp_path / "merged")


def refusal(esmerge: Command, command: str, world: World) -> str:
    """The one message, on one line."""
    outcome = esmerge(command, world.recipe_path)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    _, *messages = re.split(r"(?m)^esmerge: ", outcome.err)
    assert len(messages) == 1, outcome.err
    return " ".join(messages[0].split())


def manifests(world: World) -> list[Path]:
    return sorted((world.root / "store").glob("artifacts/*/v*/manifest.json"))


@pytest.mark.parametrize("command", ["plan", "merge"])
@pytest.mark.parametrize(
    ("experts", "named"),
    [
        pytest.param({"rank": 0}, ["experts.rank", "greater than or equal to 1"], id="rank 0"),
        pytest.param({"rank": 17}, ["experts.rank: 17", "visual.proj (32, 16)", "use 16 or less"], id="rank"),
        pytest.param(
            {"rank": 33, "extras": False}, ["experts.rank: 33", "use 32 or less"], id="rank without extras"
        ),
        pytest.param(
            {"layers": ["mlp.gate"]}, ["experts.layers[0]", "mlp.gate", "mlp.c_fc"], id="layer kind"
        ),
        pytest.param({"layers": []}, ["experts.layers"], id="no layers"),
        pytest.param({"router": "cosine"}, ["router cosine", "extras: false"], id="cosine with extras"),
        pytest.param({"router": "dice"}, ["experts.router", "dice", "token_gaussian"], id="router"),
        pytest.param({"dtype": "int8"}, ["experts.dtype", "float16"], id="dtype"),
        pytest.param({"proxies": 1}, ["experts.proxies"], id="proxies"),
        pytest.param({"ranks": 4}, ["experts.ranks: unknown key"], id="unknown key"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(
    world: World, esmerge: Command, command: str, experts: dict[str, Any], named: list[str]
) -> None:
    world.recipe["experts"] = experts
    said = refusal(esmerge, command, world)
    for text in named:
        assert text in said, said
    assert not (world.root / "store").exists()


def test_experts_of_layers_that_are_not_collected_are_refused(world: World, esmerge: Command) -> None:
    world.recipe["collect"] = {"layers": ["attn.in_proj", "mlp.c_fc", "mlp.c_proj"]}
    world.recipe["experts"] = {"rank": 4}
    assert "collect.layers: this merge needs attn.out_proj too" in refusal(esmerge, "plan", world)


@pytest.mark.parametrize("command", ["plan", "merge"])
def test_one_proxy_image_is_too_few_for_a_router(world: World, esmerge: Command, command: str) -> None:
    shutil.rmtree(world.root / "dogs" / "proxy")
    write_image(world.root / "dogs" / "proxy" / "0.png", seed=7)
    world.recipe |= {"experts": {"rank": 4}, "samples": 1}
    said = refusal(esmerge, command, world)
    assert "task dogs: " in said
    assert f"{world.root}/dogs/proxy: holds one image" in said
    assert not (world.root / "store").exists()


def test_two_proxy_images_suffice(world: World, esmerge: Command) -> None:
    shutil.rmtree(world.root / "dogs" / "proxy")
    for seed in (7, 8):
        write_image(world.root / "dogs" / "proxy" / f"{seed}.png", seed)
    world.recipe |= {"experts": {"rank": 4}, "samples": 1}
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err


def test_a_version_without_experts_says_how_to_get_them(world: World, esmerge: Command) -> None:
    assert esmerge("merge", world.recipe_path).code == 0
    with pytest.raises(esm_core.InputError, match=r"without experts; merge with `experts:` in the recipe"):
        esm_core.load(str(world.root / "store"), "pets", experts=True)


def without_layer(folder: Path) -> None:
    """What a collection that knew nothing of a layer would have left."""
    shutil.rmtree(folder / C_FC)
    marker = json.loads((folder / "complete.json").read_text())
    del marker["facts"]["rows"][C_FC]
    (folder / "complete.json").write_text(json.dumps(marker))


def without_chunk(folder: Path) -> None:
    next(path for path in sorted((folder / C_FC / "factor" / "c").rglob("*")) if path.is_file()).unlink()


@pytest.mark.parametrize("damage", [without_layer, without_chunk])
def test_inputs_that_miss_a_layer_name_their_folder_and_what_to_do(
    merged: World, esmerge: Command, damage: Callable[[Path], None]
) -> None:
    world, before = merged, manifests(merged)
    folder = next(path.parent for path in sorted((world.root / "store" / "shifts").glob(f"*/{C_FC}")))
    damage(folder)
    world.recipe["experts"] = {"rank": 5}
    said = refusal(esmerge, "merge", world)
    assert said.startswith(f"making experts failed for {C_FC}: {folder.as_uri()}")
    assert "run again" in said
    assert "the collect stage redoes it" in said or damage is without_chunk
    assert manifests(world) == before
    shutil.rmtree(folder)
    again = esmerge("merge", world.recipe_path)
    assert again.code == 0, again.err
    assert esm_core.load(str(world.root / "store"), "pets", experts=True).manifest["version"] == 2


@pytest.mark.parametrize("stage", ["experts", "routers", "routed"])
def test_a_damaged_stage_names_what_to_delete(merged: World, esmerge: Command, stage: str) -> None:
    store = merged.root / "store"
    pattern = {"experts": f"*/{C_FC}/A/c/**/*", "routers": "*/*.safetensors", "routed": "*/*.safetensors"}
    file = next(path for path in sorted((store / stage).glob(pattern[stage])) if path.is_file())
    file.write_bytes(file.read_bytes()[:-9])
    shutil.rmtree(store / "artifacts")
    if stage != "routed":
        shutil.rmtree(store / "routed")
    folder = file.parents[list(file.parents).index(store / stage) - (2 if stage == "experts" else 1)]
    said = refusal(esmerge, "merge", merged)
    assert folder.as_uri() in said
    assert "elete" in said
    assert "run again" in said
    shutil.rmtree(folder)
    assert esmerge("merge", merged.recipe_path).code == 0


@pytest.mark.parametrize("changed", ["experts/experts.safetensors", "experts/routing.json"])
def test_a_flipped_byte_of_the_experts_is_refused_by_name(
    merged: World, esmerge: Command, changed: str
) -> None:
    path = merged.root / "store" / "artifacts" / "pets" / "v000001" / changed
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused = esmerge("verify", "--store", merged.store, "pets")
    assert refused.code == 2
    assert changed in refused.err
    with pytest.raises(esm_core.IntegrityError, match=changed):
        esm_core.load(str(merged.root / "store"), "pets", experts=True)


def test_experts_of_a_newer_format_are_refused_by_name(tmp_path: Path) -> None:
    version = published_experts(tmp_path)
    folder = Path(version.folder.path)
    files = {path: (folder / path).read_bytes() for path in version.manifest["files"]}
    config = json.loads(files["experts/routing.json"])
    files["experts/routing.json"] = json.dumps(config | {"format": 2, "gates": []}).encode()
    publish(tmp_path, files)
    with pytest.raises(NewerFormatError, match=r"v000002/experts/routing\.json: was written in format 2"):
        esm_core.load(str(tmp_path / "store"), "pets", experts=True)
    assert esm_core.load(str(tmp_path / "store"), "pets").manifest["version"] == 2
