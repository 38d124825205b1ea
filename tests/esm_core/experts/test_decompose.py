"""Experts of one weight against ESD on raw inputs, an SVD, and what Eckart and Young say of the error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.esd import coordinates, essential_basis
from esm_core.experts.decompose import Expert, decompose
from esm_core.factor import FactorStream, InputFactor, compress

SHAPES = {"tall": (24, 8), "wide": (8, 24), "square": (12, 12)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(width: int, rows: int = 200) -> Tensor:
    """Correlated, of unequal scales, about a mean that is not zero."""
    scales = torch.linspace(0.1, 3.0, width, dtype=torch.float64)
    return random(rows, width, seed=1) @ (random(width, width, seed=2) * scales) + random(width, seed=3)


def raw(inputs: Tensor) -> InputFactor:
    """Inputs kept as they are, which is a factor too."""
    return InputFactor(inputs, len(inputs))


def product(expert: Expert) -> Tensor:
    return expert.up @ expert.down


def error(inputs: Tensor, residual: Tensor, expert: Expert) -> float:
    """Squared error of the outputs, summed over rows."""
    missing = inputs @ (residual - product(expert)).mT
    return float(missing.square().sum())


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def residual(request: pytest.FixtureRequest) -> Tensor:
    return random(*request.param)


def test_the_published_decomposition_is_esd_of_the_residual(residual: Tensor) -> None:
    inputs = inputs_of(residual.shape[1])
    found = essential_basis(residual, raw(inputs))
    expert = decompose(residual, raw(inputs), 4)
    basis = found.basis[:, :4]
    # Bases are the same up to signs, so their projections are compared.
    torch.testing.assert_close(product(expert), basis @ coordinates(basis, residual))
    torch.testing.assert_close(expert.up.mT @ expert.up, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(expert.down, expert.up.mT @ residual)
    share = float(found.eigenvalues[:4].sum() / found.eigenvalues.sum())
    assert expert.kept == pytest.approx(share)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_is_the_energy_of_the_directions_left_out(residual: Tensor, rank: int) -> None:
    inputs = inputs_of(residual.shape[1])
    energies = torch.linalg.svdvals(inputs @ residual.mT).square()
    expert = decompose(residual, raw(inputs), rank)
    assert error(inputs, residual, expert) == pytest.approx(float(energies[rank:].sum()), rel=1e-9)
    assert 1 - expert.kept == pytest.approx(float(energies[rank:].sum() / energies.sum()), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    d_out=st.integers(1, 12),
    d_in=st.integers(1, 12),
    rows=st.integers(1, 40),
    rank=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_no_svd_of_the_same_rank_is_better_on_those_inputs(
    d_out: int, d_in: int, rows: int, rank: int, seed: int
) -> None:
    residual, inputs = random(d_out, d_in, seed=seed), inputs_of(d_in, rows)
    left, values, right = torch.linalg.svd(residual, full_matrices=False)
    svd = Expert(values[:rank, None] * right[:rank], left[:, :rank], 0.0)
    whole = float((inputs @ residual.mT).square().sum())
    expert = decompose(residual, raw(inputs), rank)
    assert expert.down.shape == (rank, d_in)
    assert expert.up.shape == (d_out, rank)
    assert 0 <= expert.kept <= 1 + 1e-12
    assert error(inputs, residual, expert) <= error(inputs, residual, svd) + 1e-9 * whole


def test_full_rank_is_the_residual_itself(residual: Tensor) -> None:
    expert = decompose(residual, raw(inputs_of(residual.shape[1])), min(residual.shape))
    torch.testing.assert_close(product(expert), residual)
    assert expert.kept == pytest.approx(1)


def test_beyond_the_numerical_rank_there_are_zeros() -> None:
    residual = random(24, 2) @ random(2, 8, seed=5)
    expert = decompose(residual, raw(inputs_of(8)), 6)
    assert not expert.down[2:].any()
    assert not expert.up[:, 2:].any()
    torch.testing.assert_close(product(expert), residual)


def test_few_inputs_give_few_directions() -> None:
    expert = decompose(random(12, 12), raw(inputs_of(12, rows=3)), 8)
    assert int(expert.up.any(dim=0).sum()) == 3


def test_a_zero_residual_has_a_zero_expert(residual: Tensor) -> None:
    expert = decompose(torch.zeros_like(residual), raw(inputs_of(residual.shape[1])), 4)
    assert not expert.down.any()
    assert not expert.up.any()
    assert expert.kept == 1


@pytest.mark.parametrize("rows", [4, 2000])
def test_compressed_inputs_give_the_expert_of_the_raw_ones(residual: Tensor, rows: int) -> None:
    inputs = inputs_of(residual.shape[1], rows)
    stream = FactorStream(residual.shape[1])
    for batch in inputs.split(300):
        stream.update(batch)
    expected = decompose(residual, raw(inputs), 3)
    for factor in (stream.result()[0], InputFactor(compress(inputs), rows)):
        found = decompose(residual, factor, 3)
        torch.testing.assert_close(product(found), product(expected))
        assert found.kept == pytest.approx(expected.kept)
