"""Fine-tunes as transformers saves them, through a whole merge, against the merge made in transformers.

The reference knows nothing of esmerge's naming schemes and collection: weights are packed and unpacked here,
layer inputs are hooked out of transformers' own models, and the merged weights are put back into one.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from whole_merge import merge_whole
from world import TEXT, VISION, World, write_image

from esm_core import merge_updates
from esm_core.architecture import preprocess
from esm_core.artifacts import Version
from esm_core.checkpoints import open_checkpoint, vision_checkpoint
from esm_core.errors import InputError
from esm_core.images import open_images
from esm_core.images.batches import image_batches
from esm_core.layers import ESSENTIAL_KINDS, layer_kind
from esm_core.recipe_file import load_recipe
from esm_core.storage import Location
from esm_core.survey import survey

transformers = pytest.importorskip("transformers")

ALPHA = 1.5
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "hidden_act": "gelu",
}
CLIP_NAMES = {
    "self_attn.{}_proj": ("q", "k", "v"),
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter random: a fresh model has zeros and ones that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        scale = 0.2 if parameter.ndim > 1 else 0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def fine_tuned(model: nn.Module, base: dict[str, Tensor], seed: int) -> nn.Module:
    """A copy of the base with every parameter moved a little."""
    change = {name: value.clone() for name, value in randomised(model, seed).state_dict().items()}
    moved = {name: base.get(name, value) + 0.05 * value for name, value in change.items()}
    model.load_state_dict(moved)
    return model


def hf_world(root: Path, vision: dict[str, Any], embed_dim: int, tasks: tuple[str, ...]) -> World:
    """Proxies, a configuration and a recipe; the checkpoints are folders that the caller saves."""
    text_cfg = {"embed_dim": embed_dim, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"model_cfg": text_cfg, "preprocess_cfg": {"size": 16}}))
    for index, task in enumerate(tasks):
        for number in range(4):
            write_image(root / task / "proxy" / f"{number}.png", seed=10 * index + number)
    specs = [{"name": task, "checkpoint": f"{task}/model", "proxy": f"{task}/proxy"} for task in tasks]
    base = {"architecture": "config.json", "checkpoint": "base"}
    recipe = {"name": "pets", "store": "store", "base": base, "tasks": specs, "samples": 4, "alpha": ALPHA}
    return World(root, recipe)


# The reference.


def packed(tower: nn.Module, block: str, names: dict[str, str | tuple[str, ...]]) -> dict[str, Tensor]:
    """The blocks of a tower of transformers under open_clip's names."""
    state, found = tower.state_dict(), {}
    for layer in range(SIZES["num_hidden_layers"]):
        for own, name in names.items():
            for kind in ("weight", "bias"):
                target = f"visual.transformer.resblocks.{layer}."
                start = f"{block}.{layer}."
                if isinstance(name, tuple):
                    parts = [state[f"{start}{own.format(letter)}.{kind}"] for letter in name]
                    found[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
                else:
                    found[f"{target}{name}.{kind}"] = state[f"{start}{own}.{kind}"]
    return found


def unpacked(
    merged: dict[str, Tensor], block: str, names: dict[str, str | tuple[str, ...]]
) -> dict[str, Tensor]:
    """The way back."""
    found = {}
    for layer in range(SIZES["num_hidden_layers"]):
        for own, name in names.items():
            for kind in ("weight", "bias"):
                source, target = f"visual.transformer.resblocks.{layer}.", f"{block}.{layer}."
                if isinstance(name, tuple):
                    parts = merged[f"{source}attn.in_proj_{kind}"].chunk(3)
                    found |= {f"{target}{own.format(n)}.{kind}": p for n, p in zip(name, parts, strict=True)}
                else:
                    found[f"{target}{own}.{kind}"] = merged[f"{source}{name}.{kind}"]
    return found


def layer_inputs(tower: nn.Module, layers: nn.ModuleList, pixels: Tensor, first: str) -> dict[str, Tensor]:
    """What queries, keys and values, and both layers of the MLP see of the proxies: ``[tokens, d_in]``."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for index, layer in enumerate(layers):
        ends = {first: "attn.in_proj_weight", "mlp.fc1": "mlp.c_fc.weight", "mlp.fc2": "mlp.c_proj.weight"}
        for own, name in ends.items():

            def keep(_: nn.Module, args: tuple[Tensor, ...], weight: str = f"{index}.{name}") -> None:
                seen[f"visual.transformer.resblocks.{weight}"] = args[0].flatten(0, 1).double()

            hooks.append(layer.get_submodule(own).register_forward_pre_hook(keep))
    with torch.inference_mode():
        tower(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    return seen


def merged_by_hand(
    base: dict[str, Tensor], tuned: dict[str, dict[str, Tensor]], inputs: dict[str, dict[str, Tensor]]
) -> dict[str, Tensor]:
    updates = {
        task: {name: value.double() - base[name].double() for name, value in own.items()}
        for task, own in tuned.items()
    }
    merged = merge_updates(updates, inputs)
    factors = {name: ALPHA if layer_kind(name) in ESSENTIAL_KINDS else 1.0 for name in base}
    return {name: (base[name].double() + factors[name] * merged[name]).float() for name in base}


def proxies(world: World, task: str) -> Tensor:
    source = open_images(Location.parse(str(world.root / task / "proxy")))
    ((pixels, _),) = image_batches(source.read_all(), source.location, preprocess(world.architecture), 4)
    return pixels


def published_features(version: Version, pixels: Tensor) -> Tensor:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{version.folder.path}/model")
    with torch.inference_mode():
        features: Tensor = model.eval().encode_image(pixels)
    return features


# CLIP.

CLIP_TASKS = ("cats", "dogs", "maps")


def clip_packed(tower: nn.Module, projection: Tensor) -> dict[str, Tensor]:
    """A CLIP tower of transformers (its inner model) and its projection under open_clip's names."""
    state = tower.state_dict()
    plain = {
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "proj": projection.T.contiguous(),
        **{f"ln_pre.{kind}": state[f"pre_layrnorm.{kind}"] for kind in ("weight", "bias")},
        **{f"ln_post.{kind}": state[f"post_layernorm.{kind}"] for kind in ("weight", "bias")},
    }
    return packed(tower, "encoder.layers", CLIP_NAMES) | {f"visual.{n}": v for n, v in plain.items()}


def inner(model: nn.Module) -> nn.Module:
    """The tower in any of transformers' CLIP models."""
    return getattr(model, "vision_model", model)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, nn.Module]]:
    """A CLIPModel, and three fine-tunes of it, each saved in another way."""
    root = tmp_path_factory.mktemp("hf") / "clip"
    world = hf_world(root, {}, 16, CLIP_TASKS)
    config = transformers.CLIPVisionConfig(**SIZES, projection_dim=16)
    text = transformers.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=64,
        max_position_embeddings=8,
        projection_dim=16,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    both = transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=config.to_dict(), projection_dim=16
    )
    base = randomised(transformers.CLIPModel(both), seed=0)
    tower = {name: value.clone() for name, value in inner(base).state_dict().items()}
    plain = fine_tuned(transformers.CLIPVisionModel(config), tower, seed=1)
    whole = {f"vision_model.{name}": value for name, value in tower.items()}
    whole["visual_projection.weight"] = base.state_dict()["visual_projection.weight"].clone()
    projected = fine_tuned(transformers.CLIPVisionModelWithProjection(config), whole, seed=2)
    older = fine_tuned(transformers.CLIPVisionModel(config), tower, seed=3)
    models = {"base": base, "cats": plain, "dogs": projected, "maps": older}
    for name, model in models.items():
        model.save_pretrained(root / ("base" if name == "base" else f"{name}/model"))
    # As transformers 4 wrote a CLIPVisionModel.
    file = root / "maps" / "model" / "model.safetensors"
    saved = {f"vision_model.{name.removeprefix('vision_model.')}": v for name, v in load_file(file).items()}
    save_file(saved, file)
    return world, models


def test_what_transformers_writes_is_known_with_and_without_its_prefix(
    clip: tuple[World, dict[str, nn.Module]],
) -> None:
    world, _ = clip
    found = survey(load_recipe(str(world.recipe_path)))
    layouts = {name: task.tower.layout for name, task in found.tasks.items()}
    assert layouts == {
        "cats": "HF CLIP vision model (embeddings.*)",
        "dogs": "HF CLIP vision model (vision_model.*)",
        "maps": "HF CLIP vision model (vision_model.*)",
    }
    assert found.base.tower.layout == "HF CLIP vision model (vision_model.*)"
    assert {task.activation_source for task in found.tasks.values()} == {"config.json beside it"}


def test_clip_models_are_merged_as_transformers_would(clip: tuple[World, dict[str, nn.Module]]) -> None:
    world, models = clip
    _, version = merge_whole(world)

    projections = {
        name: getattr(model, "visual_projection", models["base"].visual_projection).weight.data
        for name, model in models.items()
    }
    towers = {name: clip_packed(inner(model), projections[name]) for name, model in models.items()}
    inputs = {
        task: layer_inputs(
            models[task], inner(models[task]).encoder.layers, proxies(world, task), "self_attn.q_proj"
        )
        for task in CLIP_TASKS
    }
    merged = merged_by_hand(towers["base"], {task: towers[task] for task in CLIP_TASKS}, inputs)
    state = unpacked(merged, "encoder.layers", CLIP_NAMES) | {
        "embeddings.class_embedding": merged["visual.class_embedding"],
        "embeddings.position_embedding.weight": merged["visual.positional_embedding"],
        "embeddings.patch_embedding.weight": merged["visual.conv1.weight"],
        **{f"pre_layrnorm.{kind}": merged[f"visual.ln_pre.{kind}"] for kind in ("weight", "bias")},
        **{f"post_layernorm.{kind}": merged[f"visual.ln_post.{kind}"] for kind in ("weight", "bias")},
    }
    reference = transformers.CLIPVisionModel(models["cats"].config).eval()
    inner(reference).load_state_dict(state)
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        expected = reference(pixel_values=pixels).pooler_output @ merged["visual.proj"]
        before = models["base"].get_image_features(pixel_values=pixels)
    before = getattr(before, "pooler_output", before)
    found = published_features(version, pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - before).abs().max() > 0.01, "nothing was merged"


# Plain vision transformers.

VIT_NAMES = {
    "attention.{}_proj": ("q", "k", "v"),
    "attention.o_proj": "attn.out_proj",
    "layernorm_before": "ln_1",
    "layernorm_after": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def vit_packed(tower: nn.Module) -> dict[str, Tensor]:
    state = tower.state_dict()
    positions = state["embeddings.position_embeddings"][0].clone()
    positions[1:] += state["embeddings.patch_embeddings.projection.bias"]
    return packed(tower, "layers", VIT_NAMES) | {
        "visual.class_embedding": state["embeddings.cls_token"][0, 0],
        "visual.positional_embedding": positions,
        "visual.conv1.weight": state["embeddings.patch_embeddings.projection.weight"],
        "visual.proj": torch.eye(32),
        **{f"visual.ln_post.{kind}": state[f"layernorm.{kind}"] for kind in ("weight", "bias")},
    }


def test_plain_vits_are_merged_as_transformers_would(tmp_path: Path) -> None:
    tasks = ("cats", "dogs")
    world = hf_world(tmp_path / "vit", {"no_ln_pre": True, "norm_kwargs": {"eps": 1e-12}}, 32, tasks)
    config = transformers.ViTConfig(**SIZES, num_labels=3)
    base = randomised(transformers.ViTModel(config, add_pooling_layer=False), seed=0)
    state = {name: value.clone() for name, value in base.state_dict().items()}
    classified = {f"vit.{name}": value for name, value in state.items()}
    models = {
        "cats": fine_tuned(transformers.ViTForImageClassification(config), classified, seed=1),
        "dogs": fine_tuned(transformers.ViTModel(config), state, seed=2),
    }
    base.save_pretrained(world.root / "base")
    for task, model in models.items():
        model.save_pretrained(world.root / task / "model")
    _, version = merge_whole(world)

    towers = {task: getattr(model, "vit", model) for task, model in models.items()}
    inputs = {
        task: layer_inputs(tower, tower.layers, proxies(world, task), "attention.q_proj")
        for task, tower in towers.items()
    }
    tuned = {task: vit_packed(tower) for task, tower in towers.items()}
    merged = merged_by_hand(vit_packed(base), tuned, inputs)
    base.load_state_dict(
        unpacked(merged, "layers", VIT_NAMES)
        | {
            "embeddings.cls_token": merged["visual.class_embedding"][None, None],
            "embeddings.position_embeddings": merged["visual.positional_embedding"][None],
            "embeddings.patch_embeddings.projection.weight": merged["visual.conv1.weight"],
            "embeddings.patch_embeddings.projection.bias": torch.zeros(32),
            **{f"layernorm.{kind}": merged[f"visual.ln_post.{kind}"] for kind in ("weight", "bias")},
        }
    )
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        expected = base(pixel_values=pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(published_features(version, pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES)),
            r"embeddings\.patch_embedding\.bias.* no counterpart in an open_clip vision transformer",
        ),
        (
            lambda: transformers.Dinov2Model(transformers.Dinov2Config(**_without("intermediate_size"))),
            r"embeddings\.mask_token.* no counterpart in an open_clip vision transformer\. Is this a plain",
        ),
        (
            lambda: transformers.DeiTModel(transformers.DeiTConfig(**SIZES)),
            r"embeddings\.distillation_token.* no counterpart",
        ),
    ],
    ids=["SigLIP", "DINOv2", "DeiT"],
)
def test_other_towers_are_refused_by_the_tensors_that_have_no_place(
    tmp_path: Path, make: Callable[[], Any], told: str
) -> None:
    make().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=told):
        vision_checkpoint(open_checkpoint(Location.parse(str(tmp_path))))


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in SIZES.items() if name != key}


# timm, whose names are the page's example.


def test_a_clip_tower_of_timm_is_open_clips_renamed(acme: Any, tmp_path: Path) -> None:
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        num_classes=3,
    )
    randomised(model, seed=0)
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    found = vision_checkpoint(open_checkpoint(Location.parse(str(tmp_path / "timm.safetensors"))))
    assert found.ignored == ("head.bias", "head.weight")
    tower = open_clip.CLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT).visual.eval()
    state = {re.sub("^visual.", "", name): found.read(name) for name in found.tensors}
    tower.load_state_dict({**state, "proj": torch.eye(32)})
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(tower(pixels), expected, rtol=1e-5, atol=1e-5)
