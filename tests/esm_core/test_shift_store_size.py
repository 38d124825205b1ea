"""How much the shift store takes of the raw shifts, for one block of real towers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esm_core.collect import CollectedLayer
from esm_core.factor import FactorStream, ShiftFactor
from esm_core.shifts import Layer, read_factor, write_shifts
from esm_core.storage import Location


def activations(rows: int, width: int, seed: int) -> Tensor:
    """As a tower's: float32, some directions far larger than others, a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -3, width)
    return torch.randn(rows, width, generator=generator) * scales + scales.flip(0)


def streamed(rows: Tensor, batch: int) -> FactorStream:
    stream = FactorStream(rows.shape[1])
    for part in rows.split(batch):
        stream.update(part)
    return stream


@pytest.mark.parametrize(
    ("tower", "width", "tokens", "most"), [("ViT-B/32", 768, 50, 1 / 5), ("ViT-L/14", 1024, 257, 1 / 20)]
)
def test_the_store_of_one_block_is_small_and_exact(
    tmp_path: Path, tower: str, width: int, tokens: int, most: float
) -> None:
    rows, folder = 32 * tokens, Location.parse(str(tmp_path / "shifts"))
    generator = torch.Generator().manual_seed(9)
    update = 1e-3 * torch.randn(width, 4 * width, generator=generator, dtype=torch.float64)
    seen = {
        "attn.in_proj_weight": activations(rows, width, 0),
        "mlp.c_fc.weight": activations(rows, width, 1),
        "mlp.c_proj.weight": activations(rows, 4 * width, 2).double() @ update.mT,
    }
    collected: dict[str, Layer] = {}
    for weight, inputs in seen.items():
        factor, mean = streamed(inputs, 8 * tokens).result()
        is_shift = weight == "mlp.c_proj.weight"
        collected[weight] = ShiftFactor(*factor) if is_shift else CollectedLayer(factor, mean)

    write_shifts(folder, collected.items(), {})

    stored = sum(size for size, _ in folder.entries().values())
    raw = 4 * rows * (3 * width + 4 * width + width)
    print(f"{tower}: {stored} bytes of {raw}: {stored / raw:.4f}")
    assert stored <= most * raw
    for weight, layer in collected.items():
        read = read_factor(folder, weight)
        factor = layer if isinstance(layer, ShiftFactor) else layer.inputs
        assert torch.equal(read.factor, factor.factor), "what was collected, bit for bit"
        exact = seen[weight].double().mT @ seen[weight].double()
        assert (read.factor.mT @ read.factor - exact).norm() <= 1e-12 * exact.norm()
