"""Guessing an architecture: from a configuration, from shapes, or saying what no shape tells."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from world import World

from esm_core.architecture import empty_model, load_architecture
from esm_core.draft.architecture import given_architecture, guess_architecture
from esm_core.draft.scan import FoundTower, look_at
from esm_core.errors import InputError
from esm_core.storage import Location


def checkpoint(path: Path, name: str, full: bool = False) -> FoundTower:
    """A checkpoint with the names and shapes of an open_clip model, without its numbers."""
    model = empty_model(load_architecture(name, Location.parse(".")))
    shapes = {k: v.shape for k, v in model.state_dict().items() if full or k.startswith("visual.")}
    save_file({k: torch.zeros(shape, dtype=torch.float8_e4m3fn) for k, shape in shapes.items()}, path)
    return look_at(Location.parse(str(path)), path.name)


def test_the_activation_function_decides_where_shapes_do_not(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "b.safetensors", "ViT-B-16")
    open_question = guess_architecture(base, [], None)
    assert (open_question.name, open_question.options) == (None, ("ViT-B-16", "ViT-B-16-quickgelu"))
    assert "no shape tells which activation function" in open_question.why
    assert guess_architecture(base, [], "gelu").name == "ViT-B-16"
    assert guess_architecture(base, [], "quick_gelu").name == "ViT-B-16-quickgelu"


def test_an_architecture_that_is_the_only_one_is_named(tmp_path: Path) -> None:
    guess = guess_architecture(checkpoint(tmp_path / "b.safetensors", "ViT-S-16-alt"), [], None)
    assert guess.name == "ViT-S-16-alt"
    assert "width 384, 12 layers, patch 16, images of 224 pixels, 256 outputs" in guess.why


@pytest.mark.slow
def test_a_text_tower_tells_models_of_one_vision_tower_apart(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "b.safetensors", "ViT-L-14-worldwide", full=True)
    options = ("ViT-L-14-worldwide", "ViT-L-14-worldwide-quickgelu")
    assert guess_architecture(base, [], None).options == options


def test_a_configuration_in_the_folder_comes_first(world: World) -> None:
    base = look_at(Location.parse(str(world.root / "base.safetensors")), "base.safetensors")
    config = Location.parse(str(world.root / "config.json"))
    assert guess_architecture(base, [config], None).name == config.url
    unknown = guess_architecture(base, [], None)
    assert (unknown.name, unknown.options) == (None, ())
    assert "no model of open_clip has its shapes (width 32, 2 layers, patch 8" in unknown.why


def test_an_architecture_that_is_given_must_fit(world: World) -> None:
    base = look_at(Location.parse(str(world.root / "base.safetensors")), "base.safetensors")
    assert (
        given_architecture(str(world.root / "config.json"), base).name
        == (world.root / "config.json").as_uri()
    )
    with pytest.raises(InputError, match="has not the shapes of ViT-B-32"):
        given_architecture("ViT-B-32", base)
    with pytest.raises(InputError, match="ViT-B-33"):
        given_architecture("ViT-B-33", base)
