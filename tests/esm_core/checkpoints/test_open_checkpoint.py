"""Opening by content: the file's name does not matter, and every wrong file is told apart."""

import gzip

import pytest
import torch
from safetensors.torch import save, save_file

from esm_core.checkpoints import SafetensorsFile, TorchFile, open_checkpoint, resolve_checkpoint
from esm_core.errors import InputError

TENSORS = {"visual.weight": torch.ones(2)}


def test_content_decides_not_the_name(folder):
    save_file(TENSORS, (folder / "a.pt").path)
    torch.save(TENSORS, (folder / "b.bin").path)
    assert isinstance(open_checkpoint(folder / "a.pt"), SafetensorsFile)
    assert isinstance(open_checkpoint(folder / "b.bin"), TorchFile)


@pytest.mark.parametrize("padding", range(0, 600, 40))
def test_a_header_of_any_length_is_recognised(folder, padding):
    save_file(TENSORS, (folder / "a").path, metadata={"text": "x" * padding})
    assert isinstance(open_checkpoint(folder / "a"), SafetensorsFile)


@pytest.mark.parametrize(
    "name",
    [
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
        "model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_a_folder_stands_for_the_checkpoint_in_it(folder, name):
    (folder / "open_clip_config.json").write_bytes(b"{}")
    (save_file if name.endswith("safetensors") else torch.save)(TENSORS, (folder / name).path)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.location == resolve_checkpoint(folder) == folder / name
    assert torch.equal(checkpoint.read("visual.weight"), torch.ones(2))


def test_open_clips_own_file_is_preferred_in_a_folder(folder):
    for name in ("model.safetensors", "open_clip_model.safetensors"):
        save_file(TENSORS, (folder / name).path)
    assert open_checkpoint(folder).location.name == "open_clip_model.safetensors"


@pytest.mark.s3
def test_a_remote_safetensors_file_is_read_by_byte_range(remote):
    (remote / "model.safetensors").write_bytes(save(TENSORS))
    checkpoint = open_checkpoint(remote)
    assert checkpoint.lazy
    assert torch.equal(checkpoint.read("visual.weight"), torch.ones(2))


def test_a_missing_file(folder):
    with pytest.raises(InputError, match=r"/none\.safetensors: no such file or folder; give a checkpoint"):
        open_checkpoint(folder / "none.safetensors")


def test_a_folder_without_a_checkpoint_is_told_with_what_it_holds(folder):
    for index in range(12):
        (folder / f"image{index:02}.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"holds none of open_clip_model.*it holds image00\.png, .*image09\.png, \.\.\."
    ):
        open_checkpoint(folder)
    (folder / "empty" / "x").write_bytes(b"")
    (folder / "empty" / "x").delete()
    with pytest.raises(InputError, match=r"it holds nothing\. Give the checkpoint file itself"):
        open_checkpoint(folder / "empty")


def test_a_checkpoint_in_several_files_is_refused_with_the_way_out(folder):
    index = folder / "model.safetensors.index.json"
    index.write_bytes(b"{}")
    for location in (folder, index):
        with pytest.raises(
            InputError, match=r"index\.json: a checkpoint split into several files.*max_shard_size"
        ):
            open_checkpoint(location)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run git lfs pull"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (gzip.compress(b"x" * 100, mtime=0), "unpack it with gunzip"),
    ],
)
def test_what_people_download_by_mistake_is_recognised(folder, name, content, hint):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"/{name}: is not a checkpoint .*{hint}"):
        open_checkpoint(folder / name)


def test_an_empty_and_an_unknown_file(folder):
    (folder / "a.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"/a\.pt: is empty\. Copy or download it again"):
        open_checkpoint(folder / "a.pt")
    (folder / "a.pt").write_bytes(b"something else entirely")
    with pytest.raises(
        InputError, match=r"a\.pt: is not a checkpoint \(it begins with b'something.*Give a safetensors"
    ):
        open_checkpoint(folder / "a.pt")
    (folder / "a.safetensors").write_bytes(b"something else entirely")
    with pytest.raises(InputError, match=r"a\.safetensors: is not a safetensors file"):
        open_checkpoint(folder / "a.safetensors")
