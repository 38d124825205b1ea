from pathlib import Path

import pytest
import torch
from torch import Tensor

from esm_core import InputError, IntegrityError
from esm_core.collect import CollectedLayer
from esm_core.factor import InputFactor, ShiftFactor, compress
from esm_core.shifts import read_factor, read_inputs, read_mean, write_shifts
from esm_core.stages import MARKER, is_complete, read_marker
from esm_core.storage import Location

C_FC, C_PROJ, OUT_PROJ = (
    f"visual.transformer.resblocks.0.{layer}.weight" for layer in ("mlp.c_fc", "mlp.c_proj", "attn.out_proj")
)


def values(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))


def inputs(values: Tensor) -> CollectedLayer:
    return CollectedLayer(InputFactor(compress(values), values.shape[0]), values.mean(0))


LAYERS = {
    C_FC: inputs(values(100, 6)),
    OUT_PROJ: inputs(values(4, 9)),
    C_PROJ: ShiftFactor(compress(values(50, 5)), 50),
}


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    location = Location.parse(str(tmp_path / "shifts"))
    write_shifts(location, LAYERS.items(), {"samples": ["a.png", "b.png"]})
    return location


def test_collected_layers_come_back_exactly(folder: Location) -> None:
    for weight in (C_FC, OUT_PROJ):
        written = LAYERS[weight]
        assert isinstance(written, CollectedLayer)
        read = read_factor(folder, weight)
        assert isinstance(read, InputFactor)
        assert torch.equal(read.factor, written.inputs.factor)
        assert torch.equal(read_inputs(folder, weight).factor, read.factor)
        assert torch.equal(read_mean(folder, weight), written.mean)
        assert read.rows == written.inputs.rows


def test_a_shift_comes_back_as_one(folder: Location) -> None:
    read = read_factor(folder, C_PROJ)
    assert isinstance(read, ShiftFactor)
    assert torch.equal(read.factor, LAYERS[C_PROJ].factor)
    assert read.rows == 50
    for reader in (read_inputs, read_mean):
        with pytest.raises(IntegrityError, match=f"no inputs of {C_PROJ}"):
            reader(folder, C_PROJ)


def test_the_marker_holds_the_row_counts_the_places_of_the_means_and_the_lineage(folder: Location) -> None:
    assert read_marker(folder) == {
        "rows": {C_FC: 100, C_PROJ: 50, OUT_PROJ: 4},
        "means": {C_FC: [0, 6], OUT_PROJ: [6, 15]},
        "lineage": {"samples": ["a.png", "b.png"]},
    }


def stored(folder: Location, weight: str) -> int:
    sizes = folder.entries().items()
    return sum(size for path, (size, _) in sizes if path.startswith(f"{weight}/factor/c/"))


CHECKSUM = 4


def test_a_triangle_takes_half_of_its_square(folder: Location) -> None:
    assert stored(folder, C_FC) == 8 * 21 + CHECKSUM
    assert stored(folder, C_PROJ) == 8 * 15 + CHECKSUM


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_raw_rows_of_a_run_in_float32_take_four_bytes_a_value(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, rows = Location.parse(str(tmp_path / "raw")), values(4, 9).to(dtype).double()
    write_shifts(folder, [(OUT_PROJ, inputs(rows))], {})
    assert stored(folder, OUT_PROJ) == 4 * 36 + CHECKSUM
    assert torch.equal(read_inputs(folder, OUT_PROJ).factor, rows)


@pytest.mark.parametrize("odd", [1 + 2.0**-40, 1e300, 5e-324, 1e-42 / 3], ids=str)
def test_one_value_that_float32_cannot_hold_keeps_all_in_float64(tmp_path: Path, odd: float) -> None:
    folder, rows = Location.parse(str(tmp_path / "raw")), values(4, 9).float().double()
    rows[3, 5] = odd
    write_shifts(folder, [(OUT_PROJ, inputs(rows))], {})
    assert stored(folder, OUT_PROJ) == 8 * 36 + CHECKSUM
    assert torch.equal(read_inputs(folder, OUT_PROJ).factor, rows)


def test_as_many_rows_as_columns_are_no_triangle(tmp_path: Path) -> None:
    folder, rows = Location.parse(str(tmp_path / "square")), values(9, 9)
    write_shifts(folder, [(OUT_PROJ, inputs(rows))], {})
    assert torch.equal(read_inputs(folder, OUT_PROJ).factor, rows)


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    location = Location.parse(str(tmp_path / "killed"))
    monkeypatch.setattr("esm_core.shifts.write_arrays", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shifts(location, LAYERS.items(), {})
    assert not is_complete(location)


def test_writing_again_after_a_kill_completes_the_stage(folder: Location) -> None:
    (folder / MARKER).delete()
    (folder / C_FC / "factor" / "c").delete()
    write_shifts(folder, LAYERS.items(), {})
    assert torch.equal(read_inputs(folder, C_FC).factor, compress(values(100, 6)))


def test_a_layer_that_was_not_collected_is_named_with_the_way_out(folder: Location) -> None:
    with pytest.raises(IntegrityError, match=r"no inputs of visual\.proj\. Delete it .* the collect stage"):
        read_factor(folder, "visual.proj")


def test_damage_is_an_error_that_names_the_folder(folder: Location) -> None:
    (chunk,) = [name for name in folder.files() if name.startswith(f"{C_FC}/factor/c/")]
    data = bytearray((folder / chunk).read_bytes())
    data[17] ^= 1
    (folder / chunk).write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=f"{folder}: array {C_FC}/factor is damaged.*run again"):
        read_factor(folder, C_FC)
    read_factor(folder, C_PROJ)


def test_a_stage_that_is_not_complete_cannot_be_read(folder: Location) -> None:
    (folder / MARKER).delete()
    with pytest.raises(InputError, match=MARKER):
        read_factor(folder, C_FC)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_layers_on_the_gpu_are_written_and_read_there(folder: Location) -> None:
    on_gpu = read_inputs(folder, C_FC, "cuda")
    assert on_gpu.factor.is_cuda
    write_shifts(folder / "again", [(C_FC, CollectedLayer(on_gpu, on_gpu.factor.mean(0)))], {})
    assert torch.equal(read_inputs(folder / "again", C_FC).factor, on_gpu.factor.cpu())
