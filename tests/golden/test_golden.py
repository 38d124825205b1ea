"""Agreement with what the authors' released code computed (method notes, *Golden data*)."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from esm_core import InputFactor, MergeSettings, merge_updates
from esm_core.esd import essential_basis
from esm_core.merge import merges_essentially

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ESMERGE_SHARED", REPOSITORY.parent / "shared"))
TOLERANCE = 1e-4

Problem = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module", params=[4, 8], ids=["4tasks", "8tasks"])
def golden(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    path = SHARED / "golden" / f"golden_{request.param}tasks.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden data at {path}; set ESMERGE_SHARED to the folder that holds golden/")
    return load_file(path)


def per_task(golden: dict[str, Tensor], section: str) -> Problem:
    """``{task: {weight: tensor}}`` of one section of the file."""
    found: Problem = {}
    for key, tensor in golden.items():
        part, _, rest = key.partition("/")
        if part == section:
            task, _, weight = rest.partition("/")
            found.setdefault(task, {})[weight] = tensor
    return found


def relative_error(ours: Tensor, golden: Tensor) -> float:
    return float((ours.double() - golden.double()).norm() / golden.double().norm())


def test_every_merged_weight_agrees_with_the_released_code(golden: dict[str, Tensor]) -> None:
    merged = merge_updates(per_task(golden, "update"), per_task(golden, "inputs"), MergeSettings())
    expected = {key.removeprefix("merged/"): v for key, v in golden.items() if key.startswith("merged/")}
    assert set(merged) == set(expected)
    # The released code keeps a factor 2 that this project folds into alpha.
    factor = {weight: 2.0 if merges_essentially(weight) else 1.0 for weight in expected}
    errors = {
        weight: relative_error(factor[weight] * merged[weight], expected[weight]) for weight in expected
    }
    assert {weight: error for weight, error in errors.items() if not error < TOLERANCE} == {}


def test_every_eigenvalue_agrees_with_the_released_code(golden: dict[str, Tensor]) -> None:
    updates, inputs = per_task(golden, "update"), per_task(golden, "inputs")
    checked = 0
    for task, spectra in per_task(golden, "eigenvalues").items():
        for weight, expected in spectra.items():
            rows = inputs[task][weight]
            ours = essential_basis(updates[task][weight], InputFactor(rows, rows.shape[0])).eigenvalues
            leading = min(ours.numel(), expected.numel())
            assert leading == min(*rows.shape, updates[task][weight].shape[0]), (task, weight)
            assert relative_error(ours[:leading], expected[:leading]) < TOLERANCE, (task, weight)
            # One by one as well; the small ones carry the float32 noise of the released code.
            torch.testing.assert_close(
                ours[:leading], expected[:leading].double(), rtol=TOLERANCE, atol=1e-7 * float(ours[0])
            )
            checked += 1
    assert checked == sum(len(own) for own in inputs.values())
