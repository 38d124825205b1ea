"""One vision tower, six layouts: all give the same tensors under open_clip's names."""

import pytest
import torch

from esm_core.checkpoints import VisionCheckpoint, text_checkpoint, vision_checkpoint
from esm_core.errors import InputError


def prefixed(tensors, prefix):
    return {prefix + name: value for name, value in tensors.items()}


def assert_same_tower(vision: VisionCheckpoint, tower) -> None:
    assert set(vision.tensors) == set(tower)
    for name, expected in tower.items():
        assert vision.tensors[name].shape == tuple(expected.shape)
        assert vision.tensors[name].dtype == expected.dtype
        read = vision.read(name)
        assert torch.equal(read, expected)
        assert read.is_contiguous()


def test_a_full_open_clip_model(saved, clip, tower):
    checkpoint = saved(clip)
    vision = vision_checkpoint(checkpoint)
    assert_same_tower(vision, tower)
    assert vision.layout == "open_clip (visual.*)"
    assert set(vision.ignored) == set(clip) - set(tower)
    assert vision.location == checkpoint.location
    assert vision.lazy


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model."])
def test_an_image_encoder_keeps_the_model_below_a_prefix(saved, clip, tower, prefix):
    vision = vision_checkpoint(saved(prefixed(clip, prefix) | {"head.weight": torch.ones(3, 16)}))
    assert_same_tower(vision, tower)
    assert vision.layout == f"open_clip (visual.*, below {prefix.rstrip('.')})"
    assert "head.weight" in vision.ignored


def test_a_tower_without_visual(saved, tower):
    bare = {name.removeprefix("visual."): value for name, value in tower.items()}
    vision = vision_checkpoint(saved(bare | {"head.weight": torch.ones(3, 16)}))
    assert_same_tower(vision, tower)
    assert vision.layout == "open_clip tower without the prefix visual."
    assert vision.ignored == ("head.weight",)


def test_hf_vision_model_with_projection(saved, hf, tower):
    vision = vision_checkpoint(saved(hf))
    assert_same_tower(vision, tower)
    assert vision.layout == "HF CLIP vision model (vision_model.*)"
    assert vision.ignored == ()


def test_hf_vision_model_without_its_prefix(saved, hf, tower):
    plain = {name.removeprefix("vision_model."): value for name, value in hf.items()}
    vision = vision_checkpoint(saved(plain | {"classifier.weight": torch.ones(3, 32)}))
    assert_same_tower(vision, tower)
    assert vision.layout == "HF CLIP vision model (embeddings.*)"
    assert vision.ignored == ("classifier.weight",)


def test_hf_vision_model_without_projection_has_no_proj(saved, hf, tower):
    del (changed := dict(hf))["visual_projection.weight"]
    expected = {name: value for name, value in tower.items() if name != "visual.proj"}
    assert_same_tower(vision_checkpoint(saved(changed)), expected)


def test_hf_full_clip_ignores_its_text_tower(saved, hf, tower):
    text = {
        "logit_scale": torch.tensor(1.0),
        "text_projection.weight": torch.ones(16, 16),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(16, 16),
        "text_model.embeddings.token_embedding.weight": torch.ones(20, 16),
    }
    vision = vision_checkpoint(saved(hf | text))
    assert_same_tower(vision, tower)
    assert set(vision.ignored) == set(text)


def test_hf_queries_keys_and_values_are_packed_in_that_order(saved, hf):
    vision = vision_checkpoint(saved(hf))
    packed = vision.read("visual.transformer.resblocks.1.attn.in_proj_bias")
    for index, letter in enumerate("qkv"):
        part = hf[f"vision_model.encoder.layers.1.self_attn.{letter}_proj.bias"]
        assert torch.equal(packed[32 * index : 32 * (index + 1)], part)


def test_the_stored_precision_is_kept(saved, hf):
    vision = vision_checkpoint(saved({name: value.to(torch.float16) for name, value in hf.items()}))
    assert {info.dtype for info in vision.tensors.values()} == {torch.float16}
    assert {vision.read(name).dtype for name in vision.tensors} == {torch.float16}


def test_metadata_and_unknown_names_pass_through(saved, tower):
    vision = vision_checkpoint(saved(tower, activation="gelu"))
    assert vision.metadata == {"activation": "gelu"}
    with pytest.raises(InputError, match=r"fine-tune\.safetensors: has no tensor 'visual\.x'"):
        vision.read("visual.x")


def test_incomplete_queries_keys_and_values_are_named(saved, hf):
    changed = dict(hf)
    del changed["vision_model.encoder.layers.0.self_attn.k_proj.weight"]
    del changed["vision_model.encoder.layers.1.self_attn.q_proj.bias"]
    with pytest.raises(InputError) as caught:
        vision_checkpoint(saved(changed))
    assert len(caught.value.problems) == 2
    message = str(caught.value)
    assert (
        "fine-tune.safetensors: vision_model.encoder.layers.0.self_attn.k_proj.weight missing beside"
        in message
    )
    assert "vision_model.encoder.layers.1.self_attn.q_proj.bias missing" in message
    assert "Save the whole model" in message


def test_uneven_queries_keys_and_values_are_refused(saved, hf):
    changed = hf | {"vision_model.encoder.layers.0.self_attn.v_proj.weight": torch.ones(16, 32)}
    with pytest.raises(InputError, match=r"q_proj\.weight and its keys and values differ .*v \(16, 32\)"):
        vision_checkpoint(saved(changed))


def test_a_relative_of_clip_is_refused_rather_than_half_read(saved, hf):
    siglip = hf | {
        "vision_model.head.probe": torch.ones(1),
        "vision_model.embeddings.patch_embedding.bias": torch.ones(32),
    }
    with pytest.raises(
        InputError, match=r"vision_model\.head\.probe.* has no counterpart in an open_clip vision"
    ):
        vision_checkpoint(saved(siglip))


def test_a_projection_that_is_no_matrix_is_refused(saved, hf):
    with pytest.raises(
        InputError, match=r"visual_projection\.weight has shape \(3,\), expected \(embed_dim, width\)"
    ):
        vision_checkpoint(saved(hf | {"visual_projection.weight": torch.ones(3)}))


def test_an_unknown_layout_is_told_with_its_names_and_the_layouts_understood(saved):
    resnet = {"layer1.0.conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)}
    with pytest.raises(InputError) as caught:
        vision_checkpoint(saved(resnet))
    message = str(caught.value)
    assert "fine-tune.safetensors: holds no vision tower esmerge knows" in message
    assert "fc.weight" in message
    assert "layer1.0.conv1.weight" in message
    assert "open_clip, full or tower (visual.*)" in message
    assert "HF CLIPModel" in message


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_the_text_tower_of_a_full_clip_can_be_copied(saved, clip, tower, prefix):
    constants = {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(20)}
    checkpoint = saved(prefixed(clip | constants, prefix))
    text = text_checkpoint(checkpoint)
    assert set(text.tensors) == set(clip) - set(tower)
    assert all(torch.equal(text.read(name), clip[name]) for name in text.tensors)


def test_a_custom_text_tower_counts_too(saved, tower):
    text = {"text.transformer.resblocks.0.ln_1.weight": torch.ones(16), "logit_scale": torch.tensor(1.0)}
    assert set(text_checkpoint(saved(tower | text)).tensors) == set(text)


def test_a_tower_has_no_text_tower(saved, tower, hf):
    assert text_checkpoint(saved(tower)).tensors == {}
    assert text_checkpoint(saved(hf | {"text_model.final_layer_norm.weight": torch.ones(16)})).tensors == {}


def test_an_image_encoder_that_kept_only_the_embeddings_has_no_text_tower(saved, clip):
    stripped = {n: v for n, v in clip.items() if not n.startswith("transformer.")}
    assert "token_embedding.weight" in stripped
    assert text_checkpoint(saved(prefixed(stripped, "model."))).tensors == {}
