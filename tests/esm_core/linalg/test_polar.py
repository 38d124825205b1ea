from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.linalg import gram, numerical_rank, polar, polar_times, times_polar

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


@pytest.mark.parametrize("condition", [1.0, 1e2, 5e3, 9e4, 1e7])
@pytest.mark.parametrize("shape", [(12, 12), (12, 30)], ids=["square", "wide"])
def test_times_polar_is_a_product_with_the_polar_factor(shape: tuple[int, int], condition: float) -> None:
    values = spectrum(condition)
    wide, isometry = matrix_with(values, *shape)
    matrix = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times, found = times_polar(matrix, wide, torch.float64)
    torch.testing.assert_close(times, matrix @ isometry, rtol=0, atol=1e-8)
    torch.testing.assert_close(found, values.sort(descending=True).values, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("condition", [1.0, 1e2, 5e3, 9e4])
def test_times_polar_tells_every_direction_of_rounded_values_above_their_noise(condition: float) -> None:
    wide = matrix_with(spectrum(condition), 12, 30)[0].to(torch.float32).to(torch.float64)
    matrix = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(wide, full_matrices=False)
    times, _ = times_polar(matrix, wide, torch.float32)
    torch.testing.assert_close(times, matrix @ (left @ right), rtol=0, atol=1e-6)


def test_times_polar_leaves_out_what_is_rounding_noise() -> None:
    values = torch.tensor([3.0, 2, 1, 0.5, 0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    wide, isometry = matrix_with(values, 12, 30)
    matrix = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times, found = times_polar(matrix, wide, torch.float64)
    torch.testing.assert_close(times, matrix @ isometry, rtol=0, atol=1e-11)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-12)
    rounded = wide.to(torch.float32).to(torch.float64)
    torch.testing.assert_close(
        times_polar(matrix, rounded, torch.float32)[0], matrix @ isometry, rtol=0, atol=1e-5
    )
    nothing, _ = times_polar(matrix, torch.zeros(12, 30, dtype=torch.float64), torch.float64)
    assert nothing.shape == (7, 30)
    assert not nothing.any()


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


class Problem(NamedTuple):
    """A matrix as a fusion makes it, and columns that meet it."""

    matrix: Tensor
    columns: Tensor

    @property
    def product(self) -> Tensor:
        return gram(self.matrix.to(torch.float32))

    def error(self, times: Tensor) -> float:
        """Of ``polar(A) X``, beside an SVD in float64."""
        left, _, right = torch.linalg.svd(self.matrix, full_matrices=False)
        expected = left @ (right @ self.columns)
        return float((times - expected).norm() / expected.norm())


def fused_bases(
    size: int = 1024, tasks: int = 8, shared: int = 0, seed: int = 0, apart: float = 1e-4
) -> Problem:
    """Orthonormal bases of ``tasks`` side by side; their first ``shared`` directions are nearly the same."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = normal(size, shared)
    bases = [
        torch.linalg.qr(
            torch.cat([common + apart * normal(size, shared), normal(size, size // tasks - shared)], 1)
        ).Q
        for _ in range(tasks)
    ]
    return Problem(torch.cat(bases, dim=1), torch.linalg.qr(normal(size, size // 4)).Q)


@pytest.mark.parametrize("shared", [0, 4, 32], ids=["apart", "few shared", "a quarter shared"])
def test_polar_times_few_columns_is_as_exact_as_a_float32_weight(shared: int) -> None:
    problem = fused_bases(shared=shared)
    times, mean = polar_times(*problem, problem.product)
    assert problem.error(times) < 2e-5
    values = torch.linalg.svdvals(problem.matrix)
    torch.testing.assert_close(mean, values.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("shared", [1, 4, 16])
def test_polar_times_tells_directions_apart_however_few_and_faint(shared: int, apart: float) -> None:
    problem = fused_bases(shared=shared, seed=1, apart=apart)
    assert problem.error(polar_times(*problem, problem.product)[0]) < 2e-5


@pytest.mark.parametrize("apart", [0.1, 0.05, 0.03])
@pytest.mark.parametrize("shared", [1, 8, 32])
def test_polar_times_takes_many_directions_at_the_edge_of_float32(shared: int, apart: float) -> None:
    problem = fused_bases(shared=shared, seed=1, apart=apart)
    assert problem.error(polar_times(*problem, problem.product)[0]) < 8e-5


def test_polar_times_gives_the_same_bits_again_and_beside_others() -> None:
    problems = [fused_bases(shared=shared, seed=shared) for shared in (0, 4)]
    alone = [polar_times(*problem, problem.product) for problem in problems]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda problem: polar_times(*problem, problem.product), problems))
    for (times, mean), (again, other) in zip(alone, together, strict=True):
        assert torch.equal(times, again)
        assert torch.equal(mean, other)


def test_polar_times_refuses_what_is_no_number() -> None:
    matrix = torch.randn(1100, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix[3, 4] = torch.nan
    problem = Problem(matrix, matrix.new_ones(1024, 2))
    with pytest.raises(RuntimeError, match="holds NaN or Inf"):
        polar_times(*problem, problem.product)


def test_polar_times_of_nothing_is_nothing() -> None:
    problem = Problem(torch.zeros(1024, 1024), torch.ones(1024, 2, dtype=torch.float64))
    times, mean = polar_times(*problem, problem.product)
    assert not times.any()
    assert mean == 0


def test_polar_times_is_about_as_exact_as_an_svd_in_float32() -> None:
    problem = fused_bases(seed=1)
    left, _, right = torch.linalg.svd(problem.matrix.float(), full_matrices=False)
    rough = (left @ (right @ problem.columns.float())).double()
    assert problem.error(polar_times(*problem, problem.product)[0]) < 4 * problem.error(rough)


def test_polar_times_leaves_out_directions_of_rounding_noise() -> None:
    problem = fused_bases()
    doubled = Problem(torch.cat([problem.matrix[:, :512], problem.matrix[:, :512]], 1), problem.columns)
    left, values, right = torch.linalg.svd(doubled.matrix)
    expected = left[:, :512] @ (right[:512] @ doubled.columns)
    times, mean = polar_times(*doubled, doubled.product)
    torch.testing.assert_close(times, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, values.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "shape", [(40, 12, 6), (12, 40, 5), (12, 12, 30)], ids=["tall", "wide", "many columns"]
)
def test_polar_times_of_small_matrices_is_the_product(shape: tuple[int, int, int]) -> None:
    rows, size, count = shape
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    columns = torch.randn(size, count, generator=generator, dtype=torch.float64)
    problem = Problem(matrix, columns)
    times, mean = polar_times(matrix, columns, problem.product)
    assert problem.error(times) < 1e-10
    torch.testing.assert_close(mean, torch.linalg.svdvals(matrix).mean())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_polar_factors_on_cuda_are_those_of_the_cpu() -> None:
    problem = fused_bases(size=256)
    there = Problem(*(tensor.cuda() for tensor in problem))
    times, mean = polar_times(*there, there.product)
    expected, expected_mean = polar_times(*problem, problem.product)
    torch.testing.assert_close(times.cpu(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(mean.cpu(), expected_mean)
