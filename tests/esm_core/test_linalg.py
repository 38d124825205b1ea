import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.linalg import numerical_rank, polar

SHAPES = {"square": (12, 12), "tall": (30, 12), "wide": (12, 30)}


def matrix_with(values: Tensor, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random matrix with the given singular values, and ``U Vᵀ`` of those above zero."""
    generator = torch.Generator().manual_seed(seed)
    size = values.numel()
    left = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=generator, dtype=torch.float64)).Q
    keep = values > 0
    return (left * values) @ right.mT, left[:, keep] @ right[:, keep].mT


def spectrum(condition: float, small: int = 6) -> Tensor:
    """Twelve singular values: large ones at 1, and a cluster ``small`` strong at 1 / condition."""
    values = torch.ones(12, dtype=torch.float64)
    values[-small:] = torch.linspace(3, 1, small, dtype=torch.float64) / condition
    return values


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 9e4, 1e7])
def test_polar_finds_the_nearest_isometry_however_ill_conditioned(
    shape: tuple[int, int], condition: float
) -> None:
    values = spectrum(condition)
    matrix, isometry = matrix_with(values, *shape)
    factor, found = polar(matrix)
    torch.testing.assert_close(factor, isometry, rtol=0, atol=1e-8)
    torch.testing.assert_close(found, values.sort(descending=True).values, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 9e4, 1e7])
def test_polar_factor_is_orthonormal_to_rounding(shape: tuple[int, int], condition: float) -> None:
    matrix, _ = matrix_with(spectrum(condition), *shape)
    factor, _ = polar(matrix)
    short = factor if shape[0] <= shape[1] else factor.mT
    torch.testing.assert_close(short @ short.mT, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_polar_of_a_rank_deficient_matrix_is_a_partial_isometry(shape: tuple[int, int]) -> None:
    values = torch.tensor([3.0, 2, 1, 0.5, 0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    matrix, isometry = matrix_with(values, *shape)
    factor, found = polar(matrix)
    torch.testing.assert_close(factor, isometry, rtol=0, atol=1e-12)
    torch.testing.assert_close(factor @ factor.mT @ factor, factor, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-12)


def test_polar_of_a_rank_deficient_matrix_does_not_follow_rounding_noise() -> None:
    matrix, _ = matrix_with(torch.tensor([3.0, 2, 1], dtype=torch.float64), 30, 12)
    noise = 1e-16 * torch.randn(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(polar(matrix + noise)[0], polar(matrix)[0], rtol=0, atol=1e-12)


def test_polar_of_nothing_is_nothing() -> None:
    factor, values = polar(torch.zeros(5, 3, dtype=torch.float64))
    assert factor.shape == (5, 3)
    assert not factor.any()
    assert values.tolist() == [0, 0, 0]
    for shape in ((5, 0), (0, 5)):
        factor, values = polar(torch.zeros(shape, dtype=torch.float64))
        assert factor.shape == shape
        assert values.numel() == 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.integers(1, 14), columns=st.integers(1, 14), seed=st.integers(0, 10**6))
def test_polar_agrees_with_the_svd_on_random_matrices(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    factor, found = polar(matrix)
    torch.testing.assert_close(factor, left @ right, rtol=0, atol=1e-8)
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_polar_ignores_scale_and_follows_rotations(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix, _ = matrix_with(spectrum(10.0), 20, 12, seed)
    rotation = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=generator)).Q
    torch.testing.assert_close(polar(scale * matrix)[0], polar(matrix)[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(polar(rotation @ matrix)[0], rotation @ polar(matrix)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("eigenvalues", "rank"),
    [
        ([4.0, 2.0, 1.0], 3),
        ([4.0, 2.0, 1e-20], 2),
        ([4.0, 2.0, -1e-17], 2),
        ([1.0, 1e-13, 1e-16], 2),
        ([0.0, 0.0], 0),
        ([-1e-20, -1e-19], 0),
        ([], 0),
    ],
)
def test_numerical_rank_counts_what_stands_above_rounding(eigenvalues: list[float], rank: int) -> None:
    assert numerical_rank(torch.tensor(eigenvalues, dtype=torch.float64), size=10) == rank
