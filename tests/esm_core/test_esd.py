from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.esd import coordinates, essential_basis
from esm_core.factor import InputFactor, compress


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
