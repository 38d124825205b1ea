"""Converting a pickled model once, on purpose."""

import argparse
import pickle
import sys
import types
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import esm_core.checkpoints
from esm_core.checkpoints import open_checkpoint
from esm_core.checkpoints.convert import convert_pickled
from esm_core.errors import InputError


def save(folder, content, **options):
    torch.save(content, (folder / "model.pt").path, **options)
    return folder / "model.pt"


def converted(source):
    target = source.parent / "out.safetensors"
    convert_pickled(source, target)
    return load_file(target.path)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_becomes_its_state_dict(folder, zipped):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).half()
    source = save(folder, model, _use_new_zipfile_serialization=zipped)
    assert_equal(converted(source), model.state_dict())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_module_or_a_state_dict_beside_other_things(folder, key):
    model = nn.Linear(2, 3)
    for content in (model, model.state_dict()):
        source = save(folder, {key: content, "args": argparse.Namespace(lr=1)})
        assert_equal(converted(source), model.state_dict())
        (folder / "out.safetensors").delete()


def test_tied_weights_are_written_once_per_name(folder):
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert_equal(converted(save(folder, nn.DataParallel(model))), model.state_dict())


def test_a_plain_pickle(folder):
    (folder / "model.pkl").write_bytes(pickle.dumps({"state_dict": {"a": torch.ones(2)}}))
    assert_equal(converted(folder / "model.pkl"), {"a": torch.ones(2)})


def test_a_torchscript_program(folder):
    model = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), (folder / "model.pt").path)
    assert_equal(converted(folder / "model.pt"), model.state_dict())


def test_the_result_opens_where_the_source_was_refused(folder):
    source = save(folder, nn.Linear(2, 2))
    with pytest.raises(InputError, match="esmerge convert"):
        open_checkpoint(source)
    convert_pickled(source, folder / "out.safetensors")
    assert set(open_checkpoint(folder / "out.safetensors").tensors) == {"weight", "bias"}


def test_an_existing_file_is_not_replaced(folder):
    source = save(folder, nn.Linear(2, 2))
    (folder / "out.safetensors").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"out\.safetensors: exists already; give a new path"):
        convert_pickled(source, folder / "out.safetensors")
    assert (folder / "out.safetensors").read_bytes() == b"precious"


def test_code_that_is_not_there_is_named(folder, monkeypatch):
    module = types.ModuleType("their_project")
    module.Encoder = type("Encoder", (nn.Linear,), {"__module__": "their_project"})
    monkeypatch.setitem(sys.modules, "their_project", module)
    source = save(folder, module.Encoder(2, 2))
    encoder = module.__dict__.pop("Encoder")
    with pytest.raises(InputError, match=r"model\.pt: needs code that is not there \(.*Encoder.*PYTHONPATH"):
        converted(source)
    del encoder, sys.modules["their_project"]
    with pytest.raises(
        InputError, match=r"model\.pt: needs the Python module 'their_project'\. Run the conversion"
    ):
        converted(source)
    assert folder.children() == ["model.pt"]


def test_a_file_without_tensors(folder):
    with pytest.raises(InputError, match=r"model\.pt: holds no named tensors"):
        converted(save(folder, {"args": argparse.Namespace(lr=1)}))


def test_tensors_safetensors_cannot_hold(folder):
    with pytest.raises(InputError, match=r"model\.pt: tensor 'a' is not a plain tensor"):
        converted(save(folder, {"a": torch.ones(2).to_sparse()}))


def test_a_missing_a_damaged_and_a_converted_file(folder):
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        convert_pickled(folder / "none.pt", folder / "out.safetensors")
    (folder / "model.pt").write_bytes(b"PK\x03\x04garbage")
    with pytest.raises(InputError, match=r"model\.pt: cannot be loaded"):
        converted(folder / "model.pt")
    save_file({"a": torch.ones(1)}, (folder / "a.safetensors").path)
    with pytest.raises(InputError, match=r"a\.safetensors: is a safetensors file already; use it as it is"):
        converted(folder / "a.safetensors")


def test_it_has_to_be_imported_by_name():
    assert not hasattr(esm_core.checkpoints, "convert_pickled")
