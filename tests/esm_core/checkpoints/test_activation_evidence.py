"""Which activation function a checkpoint was trained with, as far as files say it."""

import json

import pytest
import torch

from esm_core.checkpoints import activation_evidence, open_checkpoint, vision_checkpoint
from esm_core.errors import InputError

HF, OPEN_CLIP = "model.safetensors", "open_clip_model.safetensors"
TENSORS = {"visual.weight": torch.ones(1)}


def write(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"hidden_act": "quick_gelu"}, "quick_gelu"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "quick_gelu"}}, "gelu"),
        ({"model_type": "clip", "vision_config": {"hidden_size": 8}}, "quick_gelu"),
    ],
)
def test_config_of_transformers(saved, folder, content, expected):
    checkpoint = saved(TENSORS, HF)
    write(folder, "config.json", content)
    assert activation_evidence(checkpoint.location, checkpoint) == (expected, "config.json beside it")


@pytest.mark.parametrize(
    ("content", "expected"),
    [({"quick_gelu": True}, "quick_gelu"), ({"quick_gelu": False}, "gelu"), ({}, "gelu")],
)
def test_config_of_open_clip(saved, folder, content, expected):
    checkpoint = saved(TENSORS, OPEN_CLIP)
    write(folder, "open_clip_config.json", {"model_cfg": content})
    source = "open_clip_config.json beside it"
    assert activation_evidence(checkpoint.location, checkpoint) == (expected, source)


def test_each_library_is_believed_about_its_own_file(saved, folder):
    theirs, ours = saved(TENSORS, HF), saved(TENSORS, OPEN_CLIP)
    write(folder, "config.json", {"hidden_act": "gelu"})
    write(folder, "open_clip_config.json", {"model_cfg": {"quick_gelu": True}})
    assert activation_evidence(theirs.location, theirs) == ("gelu", "config.json beside it")
    assert activation_evidence(ours.location, ours) == ("quick_gelu", "open_clip_config.json beside it")


def test_the_files_metadata_come_first(saved, folder):
    checkpoint = vision_checkpoint(saved(TENSORS, HF, activation="quick_gelu"))
    write(folder, "config.json", {"hidden_act": "gelu"})
    assert activation_evidence(checkpoint.location, checkpoint) == ("quick_gelu", "the file's metadata")


def test_a_folder_stands_for_the_checkpoint_in_it(saved, folder):
    saved(TENSORS, HF)
    write(folder, "config.json", {"hidden_act": "gelu"})
    assert activation_evidence(folder, open_checkpoint(folder)) == ("gelu", "config.json beside it")


def test_a_config_beside_a_file_of_another_name_is_not_its_own(saved, folder):
    checkpoint = saved(TENSORS, "fine-tune.safetensors")
    write(folder, "config.json", {"hidden_act": "gelu"})
    assert activation_evidence(checkpoint.location, checkpoint) is None


@pytest.mark.parametrize("content", [{}, {"model_type": "bert"}, {"vision_config": 3}])
def test_a_config_that_does_not_say_it(saved, folder, content):
    checkpoint = saved(TENSORS, HF)
    assert activation_evidence(checkpoint.location, checkpoint) is None
    write(folder, "config.json", content)
    write(folder, "open_clip_config.json", content)
    assert activation_evidence(checkpoint.location, checkpoint) is None


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_broken_config_is_named(saved, folder, content):
    checkpoint = saved(TENSORS, HF)
    write(folder, "config.json", content)
    with pytest.raises(InputError, match=r"/config\.json: is not valid JSON .*Repair or remove it"):
        activation_evidence(checkpoint.location, checkpoint)


def test_a_config_that_is_no_object_is_named(saved, folder):
    checkpoint = saved(TENSORS, HF)
    write(folder, "config.json", [1])
    with pytest.raises(InputError, match=r"/config\.json: is not a JSON object"):
        activation_evidence(checkpoint.location, checkpoint)


def test_another_activation_function_is_refused(saved, folder):
    checkpoint = saved(TENSORS, HF)
    write(folder, "config.json", {"hidden_act": "relu"})
    with pytest.raises(
        InputError, match=r"config\.json: hidden_act is 'relu'; esmerge merges models with gelu or"
    ):
        activation_evidence(checkpoint.location, checkpoint)
    checkpoint = saved(TENSORS, HF, activation="relu")
    with pytest.raises(InputError, match=r"model\.safetensors: metadata key activation is 'relu'"):
        activation_evidence(checkpoint.location, checkpoint)
