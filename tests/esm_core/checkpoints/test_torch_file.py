"""Files of torch.save: state dicts are read, anything that could run code is refused."""

import argparse
import io
import pickle
import re
import tarfile
import tempfile
import warnings

import pytest
import torch
from torch import nn

from esm_core.checkpoints import TensorInfo, TorchFile, open_checkpoint
from esm_core.errors import InputError

STATE = {"visual.weight": torch.arange(6.0).reshape(2, 3), "visual.bias": torch.ones(2, dtype=torch.float16)}


def save(folder, content, name="model.pt", **options):
    location = folder / name
    torch.save(content, location.path, **options)
    return location


def assert_holds_state(checkpoint):
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
        name: tuple(value.shape) for name, value in STATE.items()
    }
    for name, value in STATE.items():
        assert checkpoint.read(name).dtype == value.dtype
        assert torch.equal(checkpoint.read(name), value)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"epoch": 3, "state_dict": STATE, "optimizer": {"state": {0: torch.ones(1)}}},
        {"model": STATE},
        {"model_state_dict": STATE},
        {"model": {"state_dict": STATE}},
        {f"module.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {**STATE, "step": 7, "note": "text"},
        {name: nn.Parameter(value) for name, value in STATE.items()},
    ],
    ids=[
        "plain",
        "state_dict",
        "model",
        "model_state_dict",
        "two deep",
        "module",
        "both",
        "extras",
        "Parameter",
    ],
)
def test_a_state_dict_is_found_where_people_put_it(folder, content):
    checkpoint = TorchFile(save(folder, content))
    assert_holds_state(checkpoint)
    assert checkpoint.metadata == {}
    assert not checkpoint.lazy


def test_module_is_kept_where_not_every_name_has_it(folder):
    checkpoint = TorchFile(save(folder, {"module.a": torch.ones(1), "b": torch.ones(1)}))
    assert set(checkpoint.tensors) == {"module.a", "b"}


def test_files_of_old_torch_versions_are_read(folder):
    assert_holds_state(open_checkpoint(save(folder, STATE, _use_new_zipfile_serialization=False)))


def test_a_tensor_read_is_the_callers_own_and_contiguous(folder):
    matrix = torch.zeros(2, 3)
    checkpoint = TorchFile(save(folder, {"a": matrix, "tied": matrix, "transposed": matrix.T}))
    checkpoint.read("a").add_(1)
    assert torch.equal(checkpoint.read("a"), matrix)
    assert torch.equal(checkpoint.read("tied"), matrix)
    assert checkpoint.read("transposed").is_contiguous()
    assert checkpoint.tensors["transposed"] == TensorInfo((3, 2), torch.float32)
    with pytest.raises(InputError, match=r"model\.pt: has no tensor 'b'; it has a, tied"):
        checkpoint.read("b")


@pytest.mark.s3
def test_a_remote_file_is_downloaded_and_the_download_removed(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    location = remote / "model.pt"
    content = io.BytesIO()
    torch.save(STATE, content)
    location.write_bytes(content.getvalue())
    checkpoint = open_checkpoint(location)
    assert list(tmp_path.iterdir()) == []
    assert_holds_state(checkpoint)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [nn.Linear(2, 2), {"state_dict": STATE, "args": argparse.Namespace(lr=1)}, {**STATE, "f": print}],
    ids=["module", "arguments beside it", "function"],
)
def test_a_pickled_object_is_refused_with_the_command_that_converts_it(folder, content, zipped):
    location = save(folder, content, _use_new_zipfile_serialization=zipped)
    expected = (
        f"{location}: holds a pickled object, which esmerge never loads (it could run code). If you "
        f"trust its source, convert it once: esmerge convert {location} OUT.safetensors"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        open_checkpoint(location)


class Attack:
    """What unpickling would run."""

    def __reduce__(self):
        return (open, ("attacked", "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(folder, monkeypatch, zipped):
    monkeypatch.chdir(folder.path)
    location = save(folder, {**STATE, "x": Attack()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="holds a pickled object"):
        open_checkpoint(location)
    assert folder.children() == ["model.pt"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_refused(folder, protocol):
    location = folder / "model.pkl"
    location.write_bytes(pickle.dumps({"lr": 1, "attack": Attack()}, protocol=protocol))
    with pytest.raises(InputError, match=r"model\.pkl: holds a pickled object.*esmerge convert"):
        open_checkpoint(location)


def test_a_torchscript_program_is_refused(folder):
    location = folder / "ViT-B-32.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), location.path)
    with pytest.raises(InputError, match=r"ViT-B-32\.pt: is a TorchScript program.*esmerge convert"):
        open_checkpoint(location)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused_wherever_it_was_cut(folder, zipped):
    location = save(folder, {"a": torch.randn(300)}, _use_new_zipfile_serialization=zipped)
    whole = location.read_bytes()
    for size in range(0, len(whole), 31):
        location.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.pt: .*(Copy or download it again|is not a checkpoint)"):
            open_checkpoint(location)


def test_the_oldest_format_a_tar_is_refused(folder):
    with tarfile.open((folder / "model.pth").path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match=r"model\.pth: holds a pickled object.*esmerge convert"):
        open_checkpoint(folder / "model.pth")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02"])
def test_garbage_behind_the_right_first_bytes_is_refused(folder, start):
    (folder / "model.pt").write_bytes(start + b"garbage" * 50)
    with pytest.raises(InputError, match=r"model\.pt: is damaged or no file of torch\.save"):
        open_checkpoint(folder / "model.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3}, "its keys are 'epoch'"),
        ({}, "it is empty"),
        ([torch.ones(1)], "a list"),
        (torch.ones(1), "a Tensor"),
        ({"state_dict": {}, "epoch": 1}, "its keys are 'state_dict', 'epoch'"),
    ],
)
def test_a_file_without_named_tensors_is_refused(folder, content, found):
    with pytest.raises(
        InputError, match=rf"model\.pt: holds no named tensors \({found}.*Save model\.state_dict"
    ):
        TorchFile(save(folder, content))


def test_tensors_that_are_not_plain_are_named_together(folder):
    content = {
        "ok": torch.ones(1),
        "complex": torch.ones(1, dtype=torch.complex64),
        "sparse": torch.ones(2).to_sparse(),
        "meta": torch.ones(2, device="meta"),
    }
    with pytest.raises(InputError) as caught:
        TorchFile(save(folder, content))
    assert len(caught.value.problems) == 3
    assert "tensor 'complex' is not a plain tensor (torch.complex64" in str(caught.value)


def test_one_number_that_claims_to_be_a_terabyte_is_refused(folder):
    with pytest.raises(InputError, match=r"tensor 'a' claims 4398046511104 bytes, but the file has"):
        TorchFile(save(folder, {"a": torch.zeros(1).expand(1 << 40)}))
