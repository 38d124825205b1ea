import pytest
import torch
from world import World, merge_layers

from esm_core.alpha.files import line_folder
from esm_core.alpha.line import tower_at, write_line
from esm_core.errors import IntegrityError
from esm_core.layer_merges import open_towers, update_norms
from esm_core.methods.esm import layer_scales
from esm_core.static import merged_weight


@pytest.mark.parametrize("alpha", [0.0, 1.2345, 4.0])
def test_the_line_passes_through_the_merged_tower_of_every_alpha(world: World, alpha: float) -> None:
    plan = merge_layers(world)
    write_line(plan)
    towers, scales = open_towers(plan), layer_scales(update_norms(plan), plan.recipe.method)
    found = tower_at(plan, alpha)
    assert set(found) == set(towers.base.tensors)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        expected = merged_weight(plan, towers, name, scales, alpha, torch.float32)
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_a_line_is_written_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = merge_layers(world)
    folder = write_line(plan)
    monkeypatch.delattr("esm_core.alpha.line.open_towers")
    assert write_line(plan) == folder


@pytest.mark.parametrize("file", ["origin.safetensors", "direction.safetensors"])
def test_a_damaged_line_names_the_folder_to_delete(world: World, file: str) -> None:
    plan = merge_layers(world)
    location = write_line(plan) / file
    data = bytearray(location.read_bytes())
    data[-1] ^= 1
    location.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=f"{file}: .* is damaged. Delete the folder {line_folder(plan)}"):
        tower_at(plan, 1.0)
