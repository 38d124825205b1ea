from pathlib import Path

import pytest
import torch

from esm_core import InputError, InputFactor, IntegrityError
from esm_core.collect import CollectedLayer
from esm_core.shifts import read_shift, write_shifts
from esm_core.stages import MARKER, is_complete, read_marker
from esm_core.storage import Location

C_FC, C_PROJ = (f"visual.transformer.resblocks.0.mlp.{layer}.weight" for layer in ("c_fc", "c_proj"))


def layer(width: int, rows: int) -> CollectedLayer:
    generator = torch.Generator().manual_seed(rows)
    factor = torch.randn(min(rows, width), width, dtype=torch.float64, generator=generator)
    return CollectedLayer(InputFactor(factor, rows), factor.mean(0))


LAYERS = {C_FC: layer(6, 100), C_PROJ: layer(9, 4)}


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    location = Location.parse(str(tmp_path / "shifts"))
    write_shifts(location, LAYERS, {"samples": ["a.png", "b.png"]})
    return location


def test_collected_layers_come_back_exactly(folder: Location) -> None:
    for weight, written in LAYERS.items():
        read = read_shift(folder, weight)
        assert torch.equal(read.inputs.factor, written.inputs.factor)
        assert torch.equal(read.mean, written.mean)
        assert read.inputs.rows == written.inputs.rows


def test_the_marker_holds_the_row_counts_and_the_lineage(folder: Location) -> None:
    assert read_marker(folder) == {"rows": {C_FC: 100, C_PROJ: 4}, "lineage": {"samples": ["a.png", "b.png"]}}


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    location = Location.parse(str(tmp_path / "killed"))
    monkeypatch.setattr("esm_core.shifts.write_arrays", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shifts(location, LAYERS, {})
    assert not is_complete(location)


def test_writing_again_after_a_kill_completes_the_stage(folder: Location) -> None:
    (folder / MARKER).delete()
    (folder / C_FC / "factor" / "c").delete()
    write_shifts(folder, LAYERS, {})
    assert torch.equal(read_shift(folder, C_FC).inputs.factor, LAYERS[C_FC].inputs.factor)


def test_a_layer_that_was_not_collected_is_named_with_the_way_out(folder: Location) -> None:
    with pytest.raises(IntegrityError, match=r"no inputs of visual\.proj\. Delete it .* the collect stage"):
        read_shift(folder, "visual.proj")


def test_damage_is_an_error_that_names_the_folder(folder: Location) -> None:
    (chunk,) = [name for name in folder.files() if name.startswith(f"{C_FC}/factor/c/")]
    data = bytearray((folder / chunk).read_bytes())
    data[17] ^= 1
    (folder / chunk).write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=f"{folder}: array {C_FC}/factor is damaged.*run again"):
        read_shift(folder, C_FC)
    read_shift(folder, C_PROJ)


def test_a_stage_that_is_not_complete_cannot_be_read(folder: Location) -> None:
    (folder / MARKER).delete()
    with pytest.raises(InputError, match=MARKER):
        read_shift(folder, C_FC)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_layers_on_the_gpu_are_written_and_read_there(folder: Location) -> None:
    on_gpu = read_shift(folder, C_FC, "cuda")
    assert on_gpu.inputs.factor.is_cuda
    write_shifts(folder / "again", {C_FC: on_gpu}, {})
    assert torch.equal(read_shift(folder / "again", C_FC).mean, LAYERS[C_FC].mean)
