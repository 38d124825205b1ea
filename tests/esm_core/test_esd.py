from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.esd import coordinates, decompose_update, essential_basis
from esm_core.factor import InputFactor, ShiftFactor, compress


class Layer(NamedTuple):
    """One task's update of one layer, and the inputs it saw."""

    update: Tensor
    inputs: Tensor

    @property
    def shift(self) -> Tensor:
        return self.inputs @ self.update.mT

    @property
    def raw(self) -> InputFactor:
        return InputFactor(self.inputs, self.inputs.shape[0])

    @property
    def compressed(self) -> InputFactor:
        return InputFactor(compress(self.inputs), self.inputs.shape[0])


def random_layer(
    seed: int = 0, rows: int = 60, d_in: int = 10, d_out: int = 14, decades: float = 1.0, rank: int = 99
) -> Layer:
    """Inputs whose directions fall off over ``decades`` powers of ten and span ``rank`` dimensions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rank = min(rank, d_in, rows)
    strengths = torch.logspace(0, -decades, rank, dtype=torch.float64)
    return Layer(normal(d_out, d_in), (normal(rows, rank) * strengths) @ normal(rank, d_in))


shapes = {
    "seed": st.integers(0, 10**6),
    "rows": st.integers(1, 40),
    "d_in": st.integers(1, 12),
    "d_out": st.integers(1, 12),
    "decades": st.sampled_from([0.0, 1.0, 3.0, 7.0, 12.0]),
    "rank": st.integers(1, 12),
}
layers = st.builds(random_layer, **shapes)
examples = settings(max_examples=40, deadline=None, derandomize=True)


@examples
@given(layer=layers)
def test_the_basis_is_orthonormal_even_for_ill_conditioned_and_rank_deficient_inputs(layer: Layer) -> None:
    basis, eigenvalues = essential_basis(layer.update, layer.raw)
    identity = torch.eye(basis.shape[1], dtype=torch.float64)
    torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=1e-10)
    assert basis.shape == (layer.update.shape[0], eigenvalues.numel())
    assert (eigenvalues > 0).all()
    assert (eigenvalues.diff() <= 0).all()


@examples
@given(layer=layers)
def test_the_truncation_error_is_the_sum_of_the_discarded_eigenvalues(layer: Layer) -> None:
    basis, eigenvalues = essential_basis(layer.update, layer.raw)
    degrees = max(layer.inputs.shape[0] - 1, 1)
    for rank in range(eigenvalues.numel() + 1):
        kept = basis[:, :rank]
        error = (layer.shift - layer.shift @ kept @ kept.mT).square().sum() / degrees
        torch.testing.assert_close(
            error, eigenvalues[rank:].sum(), rtol=1e-9, atol=1e-12 * float(eigenvalues.sum())
        )


@examples
@given(layer=layers, seed=st.integers(0, 99))
def test_no_other_basis_of_the_same_rank_has_a_smaller_functional_error(layer: Layer, seed: int) -> None:
    basis, _ = essential_basis(layer.update, layer.raw)
    directions = torch.linalg.svd(layer.update).U
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(directions.shape, generator=generator, dtype=torch.float64)
    other = torch.linalg.qr(square).Q

    def error(kept: Tensor) -> float:
        return float((layer.shift - layer.shift @ kept @ kept.mT).square().sum())

    slack = 1e-12 * float(layer.shift.square().sum())
    for rank in range(1, basis.shape[1] + 1):
        assert error(basis[:, :rank]) <= error(directions[:, :rank]) + slack
        assert error(basis[:, :rank]) <= error(other[:, :rank]) + slack


def test_a_truncated_svd_of_the_update_is_really_worse() -> None:
    layer = random_layer(decades=2.0)
    kept = essential_basis(layer.update, layer.raw).basis[:, :3]
    svd = torch.linalg.svd(layer.update).U[:, :3]
    error, other = ((layer.shift - layer.shift @ b @ b.mT).square().sum() for b in (kept, svd))
    assert error < 0.5 * other


@examples
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 60), d_in=st.integers(1, 12), d_out=st.integers(1, 12))
def test_compressed_and_raw_inputs_give_the_same_decomposition(
    seed: int, rows: int, d_in: int, d_out: int
) -> None:
    layer = random_layer(seed, rows, d_in, d_out)
    raw, compressed = (essential_basis(layer.update, inputs) for inputs in (layer.raw, layer.compressed))
    torch.testing.assert_close(compressed.eigenvalues, raw.eigenvalues, rtol=1e-8, atol=1e-13)
    for rank in range(1, raw.basis.shape[1] + 1):
        gap = raw.eigenvalues[rank - 1] - raw.eigenvalues[rank : rank + 1].sum()
        if gap > 1e-3 * raw.eigenvalues[0]:
            ours, theirs = compressed.basis[:, :rank], raw.basis[:, :rank]
            torch.testing.assert_close(ours @ ours.mT, theirs @ theirs.mT, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d_out", [8, 16, 40], ids=["narrow", "square", "wide"])
def test_the_rank_does_not_depend_on_whether_the_inputs_are_compressed(d_out: int) -> None:
    # Many rows, and a spectrum that ends close to what float64 resolves.
    generator = torch.Generator().manual_seed(0)

    def orthonormal(rows: int, columns: int) -> Tensor:
        return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q

    width = min(16, d_out)
    inputs = orthonormal(6304, width) * torch.logspace(0, -6.3, width, dtype=torch.float64)
    layer = Layer(orthonormal(d_out, width), inputs)
    raw, compressed = (essential_basis(layer.update, inputs) for inputs in (layer.raw, layer.compressed))
    assert raw.eigenvalues.numel() == compressed.eigenvalues.numel()


@pytest.mark.parametrize(("rows", "rank"), [(3, 10), (60, 4), (1, 10)])
def test_columns_beyond_the_rank_of_the_shift_are_left_out(rows: int, rank: int) -> None:
    layer = random_layer(rows=rows, rank=rank)
    basis, eigenvalues = essential_basis(layer.update, layer.raw)
    assert eigenvalues.numel() == min(rows, rank)
    torch.testing.assert_close(layer.shift @ basis @ basis.mT, layer.shift)


def test_a_layer_without_shift_has_no_basis() -> None:
    layer = random_layer()
    for still in (Layer(torch.zeros_like(layer.update), layer.inputs), Layer(layer.update, 0 * layer.inputs)):
        basis, eigenvalues = essential_basis(still.update, still.raw)
        assert basis.shape == (14, 0)
        assert eigenvalues.numel() == 0
        assert coordinates(basis, still.update).shape == (0, 10)


def test_coordinates_of_a_complete_basis_rebuild_the_update() -> None:
    layer = random_layer(d_in=14, d_out=10)
    basis, _ = essential_basis(layer.update, layer.raw)
    assert basis.shape == (10, 10)
    torch.testing.assert_close(basis @ coordinates(basis, layer.update), layer.update)


def test_float32_tensors_are_decomposed_in_float64() -> None:
    layer = random_layer()
    low = Layer(layer.update.float(), layer.inputs.float())
    exact = Layer(low.update.double(), low.inputs.double())
    ours, expected = (essential_basis(item.update, item.raw) for item in (low, exact))
    assert torch.equal(ours.basis, expected.basis)
    assert torch.equal(ours.eigenvalues, expected.eigenvalues)


@examples
@given(layer=layers, rank=st.integers(1, 14), given=st.sampled_from(["raw", "compressed", "shift"]))
def test_a_decomposition_is_the_truncated_basis_whatever_it_is_made_of(
    layer: Layer, rank: int, given: str
) -> None:
    inputs = {
        "raw": layer.raw,
        "compressed": layer.compressed,
        "shift": ShiftFactor(compress(layer.shift), layer.inputs.shape[0]),
    }[given]
    found = decompose_update(layer.update, inputs, rank)
    basis, eigenvalues = essential_basis(layer.update, inputs)
    kept = found.basis.shape[1]
    assert kept == found.coordinates.shape[0] == min(rank, found.eigenvalues.numel())
    identity = torch.eye(kept, dtype=torch.float64)
    torch.testing.assert_close(found.basis.mT @ found.basis, identity, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.coordinates, coordinates(found.basis, layer.update), rtol=0, atol=1e-6)
    largest = float(eigenvalues[:1].sum())
    both = min(found.eigenvalues.numel(), eigenvalues.numel())
    torch.testing.assert_close(found.eigenvalues[:both], eigenvalues[:both], rtol=1e-6, atol=1e-12 * largest)
    shift = layer.shift
    error = (shift - shift @ found.basis @ found.basis.mT).square().sum()
    best = (shift - shift @ basis[:, :kept] @ basis[:, :kept].mT).square().sum()
    torch.testing.assert_close(error, best, rtol=1e-6, atol=1e-9 * float(shift.square().sum()))


def test_the_norm_is_that_of_the_update_as_far_as_the_inputs_reach() -> None:
    whole = random_layer()
    torch.testing.assert_close(decompose_update(whole.update, whole.raw, 3).norm, whole.update.norm())
    part = random_layer(rank=4)
    basis, _ = essential_basis(part.update, part.raw)
    expected = coordinates(basis, part.update).norm()
    assert expected < 0.99 * part.update.norm()
    torch.testing.assert_close(decompose_update(part.update, part.raw, 3).norm, expected)


def test_directions_too_weak_for_a_gram_matrix_are_told_as_well_as_the_others() -> None:
    layer = random_layer(decades=6.5, d_out=10)
    found = decompose_update(layer.update, layer.raw, 10)
    assert found.eigenvalues[-1] < 1e-10 * found.eigenvalues[0]
    basis, eigenvalues = essential_basis(layer.update, layer.raw)
    assert torch.equal(found.basis, basis[:, :10])
    assert torch.equal(found.eigenvalues, eigenvalues)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_decomposition_on_cuda_spans_what_it_does_on_the_cpu() -> None:
    layer = random_layer()
    there = InputFactor(layer.inputs.cuda(), layer.inputs.shape[0])
    found = decompose_update(layer.update.cuda(), there, 3).basis.cpu()
    expected = decompose_update(layer.update, layer.raw, 3).basis
    torch.testing.assert_close(found @ found.mT, expected @ expected.mT, rtol=0, atol=1e-9)
