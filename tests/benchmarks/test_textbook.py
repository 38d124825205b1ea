"""The textbook algorithm is what the authors' code computes, and what esm_core computes."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import textbook
from esm_core.factor import InputFactor
from esm_core.merge import merges_essentially
from esm_core.methods import tsv_m
from esm_core.methods.esm import layer_scales, merge_layer
from esm_core.settings import MergeSettings

SHARED = Path(os.environ.get("ESMERGE_SHARED", Path(__file__).parents[3] / "shared"))


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def updates_and_inputs(d_out: int, d_in: int, rows: int, tasks: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(d_out)
    updates = [torch.randn(d_out, d_in, generator=generator) for _ in range(tasks)]
    return updates, [torch.randn(rows, d_in, generator=generator) for _ in range(tasks)]


@pytest.mark.parametrize(("d_out", "d_in", "rows"), [(32, 16, 60), (16, 32, 60), (24, 24, 20)])
def test_esm_core_computes_the_same(d_out: int, d_in: int, rows: int) -> None:
    updates, inputs = updates_and_inputs(d_out, d_in, rows)
    factors = [InputFactor(x, rows) for x in inputs]
    ours = merge_layer(zip(updates, factors, strict=True), len(updates), MergeSettings()).update
    assert relative(ours, textbook.merge_layer(updates, inputs, torch.float64)) < 1e-9
    assert relative(ours, textbook.merge_layer(updates, inputs)) < 1e-3


def test_esm_core_whitens_singular_vectors_the_same() -> None:
    updates, _ = updates_and_inputs(24, 20, 1)
    ours = tsv_m.merge_weight(updates)
    assert relative(ours, textbook.merge_by_singular_vectors(updates, torch.float64)) < 1e-9


@pytest.mark.parametrize("tasks", [4, 8])
def test_the_released_code_computes_the_same(tasks: int) -> None:
    path = SHARED / "golden" / f"golden_{tasks}tasks.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden data at {path}; set ESMERGE_SHARED to the folder that holds golden/")
    golden = load_file(path)
    merged = {}
    matrices = [k.removeprefix("merged/") for k in golden if k.startswith("merged/") and golden[k].ndim == 2]
    for weight in matrices:
        updates = [golden[f"update/t{task}/{weight}"] for task in range(tasks)]
        if merges_essentially(weight):
            inputs = [golden[f"inputs/t{task}/{weight}"] for task in range(tasks)]
            # The released code keeps a factor 2 that this project folds into alpha.
            merged[weight] = 2 * textbook.merge_layer(updates, inputs, torch.float64)
        else:
            merged[weight] = textbook.merge_by_singular_vectors(updates, torch.float64)
    scales = layer_scales({weight: float(m.norm()) for weight, m in merged.items()}, MergeSettings())
    errors = {w: relative(scales[w] * merged[w], golden[f"merged/{w}"]) for w in matrices}
    assert {weight: error for weight, error in errors.items() if not error < 1e-4} == {}
