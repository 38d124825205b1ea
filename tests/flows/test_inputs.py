"""Inputs as people have them, through the whole flow: full CLIP, Hugging Face names, .pt, zero-shot heads."""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from services import ACCESS_KEY, SECRET_KEY, Command, S3Server
from torch import Tensor
from world import TEXT, VISION, World, add_validation

import esm_core
from esm_core.storage import Location

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def hugging_face(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip tower under the names of transformers' CLIPVisionModel, which has no projection."""
    simple = {
        "visual.class_embedding": "embeddings.class_embedding",
        "visual.conv1.weight": "embeddings.patch_embedding.weight",
        "visual.positional_embedding": "embeddings.position_embedding.weight",
    }
    parts = {
        "ln_pre.": "pre_layrnorm.",
        "ln_post.": "post_layernorm.",
        "transformer.resblocks.": "encoder.layers.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
        ".attn.out_proj.": ".self_attn.out_proj.",
    }
    renamed = {}
    for name, tensor in tower.items():
        if name == "visual.proj":
            continue
        new = simple.get(name, name.removeprefix("visual."))
        for old, replacement in parts.items():
            new = new.replace(old, replacement)
        if ".attn.in_proj_" in new:
            layer, kind = new.split(".attn.in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.{layer}.self_attn.{letter}_proj.{kind}"] = part.clone()
        else:
            renamed[f"vision_model.{new}"] = tensor
    return renamed


def in_many_forms(world: World) -> World:
    """The same three fine-tunes: one as ``.pt`` with ``model.visual.`` keys, one in Hugging Face's names."""
    dogs = load_file(world.root / "dogs.safetensors")
    torch.save({f"model.{name}": tensor for name, tensor in dogs.items()}, world.root / "dogs.pt")
    world.task("dogs")["checkpoint"] = "dogs.pt"
    base = load_file(world.root / "base.safetensors")
    maps = load_file(world.root / "maps.safetensors") | {"visual.proj": base["visual.proj"]}
    save_file(maps, world.root / "maps.safetensors")
    folder = world.root / "maps-hf"
    folder.mkdir()
    save_file(hugging_face(maps), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", "hidden_act": "gelu"}))
    return world


def merged_weights(store: Path) -> bytes:
    (path,) = store.glob("artifacts/pets/v000001/model/open_clip_model.safetensors")
    return path.read_bytes()


def test_the_form_of_a_checkpoint_does_not_matter(world: World, esmerge: Command) -> None:
    in_many_forms(world)
    assert esmerge("merge", world.recipe_path).code == 0
    world.task("maps")["checkpoint"] = "maps-hf"
    world.task("dogs")["checkpoint"] = "dogs.safetensors"
    world.recipe["store"] = "other"
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    assert merged_weights(world.root / "other") == merged_weights(world.root / "store")
    manifest = esm_core.load(str(world.root / "other"), "pets").manifest
    assert manifest["inputs"]["tasks"]["maps"]["activation_source"].startswith("config.json")


def test_a_full_clip_keeps_its_text_tower_and_makes_zero_shot_heads(world: World, esmerge: Command) -> None:
    text = {**TEXT, "vocab_size": 49408, "context_length": 77}
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    (world.root / "config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    clip = {name: tensor.clone() for name, tensor in open_clip.CLIP(**config).state_dict().items()}
    save_file(clip | load_file(world.root / "base.safetensors"), world.root / "base.safetensors")
    del world.task("cats")["head"]
    world.task("cats")["zero_shot"] = {"classes": ["a", "b", "c"], "templates": ["a photo of a {}."]}
    add_validation(world)
    world.recipe["alpha"] = "validation"
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    assert len(list((world.root / "store" / "zero-shot").iterdir())) == 1
    loaded = esm_core.load(str(world.root / "store"), "pets")
    plain, _, _ = open_clip.create_model_and_transforms(
        f"local-dir:{world.root}/store/artifacts/pets/v000001/model"
    )
    plain.eval()
    tokens = open_clip.SimpleTokenizer(context_length=77)(["a cat", "a dog"])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model.encode_text(tokens), plain.encode_text(tokens))
    for name, tensor in clip.items():
        if not name.startswith("visual."):
            assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.manifest["architecture"]["text_tower"] == "from the base"
    assert set(loaded.manifest["metrics"]["accuracy"]["esm"]) == {"cats", "dogs", "maps"}


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_collection_runs_in_other_precisions(world: World, esmerge: Command, precision: str) -> None:
    world.recipe["collect"] = {"precision": precision, "batch_size": 3}
    assert esmerge("merge", world.recipe_path).code == 0


@pytest.mark.s3
def test_a_torch_file_on_s3_is_imported_once_and_no_credential_is_left_anywhere(
    make_world: Callable[..., World], esmerge: Command, s3: S3Server
) -> None:
    world = in_many_forms(make_world("remote", test=False))
    bucket = s3.bucket()
    for task in world.recipe["tasks"]:
        source = world.root / task["checkpoint"]
        (bucket / source.name).write_bytes(source.read_bytes())
        task["checkpoint"] = f"{bucket}/{source.name}"
    world.recipe["store"] = f"{bucket}/store"
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0, merged.err
    store = Location(f"{bucket}/store")
    assert len((store / "imports").files()) == 1
    written = b"".join((store / path).read_bytes() for path in store.files())
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret.encode() not in written
        assert secret not in merged.out + merged.err
