import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from esm_core import InputError
from esm_core.architecture import (
    CONFIG_NAME,
    Architecture,
    build_tower,
    full_model,
    load_architecture,
    preprocess,
    tower_shapes,
)
from esm_core.storage import Location

VISION = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}
MODEL = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "base.safetensors"))


@pytest.fixture
def plain() -> open_clip.CLIP:
    """The same model, built the ordinary way, with weights that are all different."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tiny(**model: Any) -> Architecture:
    return Architecture(name="tiny", model_cfg=MODEL | model, preprocess_cfg={})


def write_config(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}} | changes))
    return str(path)


def test_a_model_name_is_looked_up_in_open_clip(checkpoint: Location) -> None:
    architecture = load_architecture("ViT-B-32-quickgelu", checkpoint)
    assert architecture.model_cfg == open_clip.get_model_config("ViT-B-32-quickgelu")
    assert architecture.activation == "quick_gelu"
    assert load_architecture("ViT-B-32", checkpoint).activation == "gelu"
    assert architecture.preprocess_cfg["size"] == 224


def test_an_unknown_model_name_is_answered_with_similar_ones(checkpoint: Location) -> None:
    with pytest.raises(InputError, match=r"base\.architecture: open_clip knows no model 'ViT-B32'.*ViT-B-32"):
        load_architecture("ViT-B32", checkpoint)


def test_a_configuration_is_read_from_a_file_and_completed(tmp_path: Path, checkpoint: Location) -> None:
    architecture = load_architecture(write_config(tmp_path), checkpoint)
    assert architecture.model_cfg == MODEL
    assert architecture.preprocess_cfg["size"] == 16
    assert architecture.preprocess_cfg["mean"] == [0.5, 0.5, 0.5]
    assert architecture.preprocess_cfg["std"] == list(open_clip.OPENAI_DATASET_STD)


@pytest.mark.parametrize("inside", ["", "base.safetensors"])
def test_a_folder_written_by_open_clip_brings_its_configuration(tmp_path: Path, inside: str) -> None:
    Path(write_config(tmp_path)).rename(tmp_path / CONFIG_NAME)
    folder = Location.parse(str(tmp_path / inside))
    assert load_architecture(None, folder).model_cfg == MODEL


def test_without_any_configuration_the_user_learns_what_to_give(checkpoint: Location) -> None:
    with pytest.raises(InputError, match=rf"base\.architecture is not set and there is no {CONFIG_NAME}"):
        load_architecture(None, checkpoint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no model_cfg"),
        ('{"model_cfg": 3}', "has no model_cfg"),
        ('{"model_cfg": {"embed_dim": 16}}', "needs embed_dim, vision_cfg and text_cfg"),
        (
            json.dumps({"model_cfg": MODEL | {"vision_cfg": {"timm_model_name": "resnet50"}}}),
            "not timm or ResNet",
        ),
        (json.dumps({"model_cfg": MODEL | {"vision_cfg": VISION | {"layers": [3, 4, 6, 3]}}}), "ResNet"),
        (json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"mode": "BGR"}}), "preprocess_cfg is not usable"),
    ],
)
def test_a_configuration_that_cannot_be_merged_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_architecture(str(path), Location.parse(str(tmp_path)))
    assert "config.json" in str(caught.value)


def test_a_configuration_that_open_clip_cannot_build_is_an_input_error() -> None:
    with pytest.raises(InputError, match="tiny: open_clip cannot build this model"):
        tower_shapes(tiny(vision_cfg=VISION | {"no_such_option": 1}))


def test_the_identity_covers_what_changes_the_towers_output() -> None:
    own = tiny().identity
    assert json.loads(json.dumps(own)) == own
    assert tiny(text_cfg=TEXT | {"layers": 3}).identity == own
    assert Architecture(name="other", model_cfg=MODEL, preprocess_cfg={}).identity == own
    assert tiny(quick_gelu=True).identity != own
    assert tiny(embed_dim=8).identity != own
    assert tiny(vision_cfg=VISION | {"layers": 3}).identity != own
    assert Architecture(name="tiny", model_cfg=MODEL, preprocess_cfg={"size": 17}).identity != own


def test_shapes_are_those_of_the_real_tower(plain: open_clip.CLIP) -> None:
    expected = {f"visual.{k}": tuple(v.shape) for k, v in plain.visual.state_dict().items()}
    assert tower_shapes(tiny()) == expected


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_built_tower_computes_what_open_clip_computes(quick_gelu: bool) -> None:
    torch.manual_seed(0)
    plain = open_clip.CLIP(**MODEL, quick_gelu=quick_gelu).eval()
    tensors = {f"visual.{name}": value for name, value in plain.visual.state_dict().items()}
    tower = build_tower(tiny(quick_gelu=quick_gelu), tensors, "cpu", torch.float32)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(tower(images), plain.visual(images))
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_a_tower_is_built_in_the_precision_asked_for(plain: open_clip.CLIP) -> None:
    tensors = {f"visual.{name}": value for name, value in plain.visual.state_dict().items()}
    tower = build_tower(tiny(), tensors, "cpu", torch.float64)
    assert tower(torch.zeros(1, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64
    assert plain.visual.proj.dtype == torch.float32


def test_the_full_model_computes_what_open_clip_computes(plain: open_clip.CLIP) -> None:
    model = full_model(tiny(), plain.state_dict())
    images, text = torch.randn(2, 3, 16, 16), torch.randint(1, 64, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(images), plain.encode_image(images))
        torch.testing.assert_close(model.encode_text(text), plain.encode_text(text))


def test_the_full_model_with_a_text_module_of_its_own_works_too() -> None:
    torch.manual_seed(0)
    plain = open_clip.CustomTextCLIP(**MODEL).eval()
    model = full_model(tiny(custom_text=True), plain.state_dict())
    text = torch.randint(1, 64, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(text), plain.encode_text(text))


def test_preprocessing_is_open_clips_own(tmp_path: Path, checkpoint: Location) -> None:
    transform = preprocess(load_architecture(write_config(tmp_path), checkpoint))
    white = transform(Image.new("RGB", (40, 30), "white"))
    assert (white.shape, white.dtype) == ((3, 16, 16), torch.float32)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(white, (0.5 / std)[:, None, None].expand(3, 16, 16))
