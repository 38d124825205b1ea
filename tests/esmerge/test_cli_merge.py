"""The merge command on small real inputs, through the real flow, on a folder and on S3."""

import json
from collections.abc import Callable

import open_clip
import pytest
import torch
from services import Command, S3Server
from world import World, weight_files

import esm_core
from esm_core.channels import history
from esm_core.storage import Location

pytestmark = pytest.mark.server


@pytest.mark.usefixtures("prefect_server")
def test_merge_publishes_then_is_up_to_date(world: World, esmerge: Command) -> None:
    world.recipe["compare"] = [{"method": m} for m in ("average", "task_arithmetic", "tsv_m", "iso_c")]
    first = esmerge("merge", world.recipe_path)
    assert first.code == 0, first.err
    assert "published pets v000001" in first.out
    again = esmerge("merge", world.recipe_path)
    assert again.code == 0
    assert "up to date" in again.out
    assert json.loads(esmerge("versions", "--store", world.store, "pets", "--json").out)[0]["version"] == 1
    shown = json.loads(esmerge("show", "--store", world.store, "pets", "--json").out)
    methods = {"base", "experts", "average", "task_arithmetic", "tsv_m", "iso_c", "esm"}
    assert set(shown["metrics"]["accuracy"]) == methods
    assert set(shown["metrics"]["accuracy"]["esm"]) == {"cats", "dogs", "maps"}
    assert esmerge("verify", "--store", world.store, "pets", "v000001").code == 0


@pytest.mark.usefixtures("prefect_server")
def test_a_merge_promotes_its_version_through_its_gate_only(world: World, esmerge: Command) -> None:
    def promoted() -> list[tuple[int, str]]:
        return [(entry.version, entry.by) for entry in history(world.store, "pets", "stable")]

    assert esmerge("merge", world.recipe_path).code == 0
    assert not (world.store / "artifacts/pets/channels").is_dir()
    world.recipe["promote_if"] = {"min_normalized": 0, "max_drop": 1}
    gated = esmerge("merge", world.recipe_path)
    assert "up to date" in gated.out
    assert "pets v000001 is on stable: ESM: normalised accuracy" in gated.out
    assert promoted() == [(1, "promote_if")]
    world.recipe["alpha"] = 1.5
    assert "pets v000002 is on stable" in esmerge("merge", world.recipe_path).err
    world.recipe |= {"alpha": 1.0, "promote_if": {"min_normalized": 2}}
    refused = esmerge("merge", world.recipe_path)
    assert "published pets v000003" in refused.out
    assert "pets v000003 was not promoted to stable: ESM: normalised accuracy" in refused.err
    assert "was not promoted to stable" in esmerge("merge", world.recipe_path).out
    assert promoted() == [(1, "promote_if"), (2, "promote_if")]


@pytest.mark.usefixtures("prefect_server")
def test_the_published_model_loads_in_esmerge_and_in_plain_open_clip(world: World, esmerge: Command) -> None:
    assert esmerge("merge", world.recipe_path).code == 0
    loaded = esm_core.load(str(world.root / "store"), "pets")
    folder = world.root / "store" / "artifacts" / "pets" / "v000001" / "model"
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    plain.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded.model.encode_image(images), plain.encode_image(images))
    assert loaded.manifest["version"] == 1


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("published", ["model/open_clip_model.safetensors", "manifest.json", "README.md"])
def test_one_flipped_byte_is_refused_by_name(world: World, esmerge: Command, published: str) -> None:
    assert esmerge("merge", world.recipe_path).code == 0
    path = world.root / "store" / "artifacts" / "pets" / "v000001" / published
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused = esmerge("verify", "--store", world.store, "pets")
    assert refused.code == 2
    assert published in refused.err
    with pytest.raises(esm_core.IntegrityError, match=published):
        esm_core.load(str(world.root / "store"), "pets")


@pytest.mark.usefixtures("prefect_server")
def test_two_clean_stores_hold_the_same_bytes_whatever_the_order_of_tasks(
    world: World, esmerge: Command
) -> None:
    assert esmerge("merge", world.recipe_path).code == 0
    first = weight_files(world.store, "pets")
    world.recipe["store"] = "another"
    world.recipe["tasks"].reverse()
    assert esmerge("merge", world.recipe_path, "--workers", 1).code == 0
    assert weight_files(Location.parse(str(world.root / "another")), "pets") == first


@pytest.mark.s3
@pytest.mark.usefixtures("prefect_server")
def test_a_merge_on_s3_publishes_the_bytes_of_a_local_one(
    make_world: Callable[..., World], esmerge: Command, s3: S3Server
) -> None:
    world = make_world("local")
    world.recipe |= {"alpha": "label_free", "experts": {"rank": 4}}
    assert esmerge("merge", world.recipe_path).code == 0
    bucket = s3.bucket()
    world.upload_to(bucket)
    merged = esmerge("merge", f"{bucket}/inputs/recipe.yaml")
    assert merged.code == 0, merged.err
    assert weight_files(bucket / "store", "pets") == weight_files(world.store, "pets")
    assert "up to date" in esmerge("merge", f"{bucket}/inputs/recipe.yaml").out
    assert esmerge("verify", "--store", f"{bucket}/store", "pets").code == 0
    assert esm_core.load(f"{bucket}/store", "pets", experts=True).manifest["version"] == 1
