from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.linalg import Eigen, gram
from esm_core.linalg.poles import inverse_root_poles

PRECISIONS = [torch.float32, torch.float64]
sizes = st.integers(1, 30)
examples = settings(max_examples=40, deadline=None, derandomize=True)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@examples
@given(
    rows=sizes,
    columns=sizes,
    dtype=st.sampled_from(PRECISIONS),
    form=st.sampled_from(["plain", "mT", "strided"]),
)
def test_gram_is_the_upper_triangle_of_the_product(
    rows: int, columns: int, dtype: torch.dtype, form: str
) -> None:
    matrix = {
        "plain": random(rows, columns, dtype=dtype),
        "mT": random(columns, rows, dtype=dtype).mT,
        "strided": random(rows, 2 * columns, dtype=dtype)[:, ::2],
    }[form]
    torch.testing.assert_close(gram(matrix).triu(), (matrix.mT @ matrix).triu())


@examples
@given(size=sizes, count=sizes, seed=st.integers(0, 99))
def test_leading_eigenvectors_belong_to_the_largest_eigenvalues(size: int, count: int, seed: int) -> None:
    matrix = random(size, size, seed=seed)
    whole = matrix + matrix.mT
    eigen = Eigen.of(whole.triu())
    vectors = eigen.leading(count)
    assert vectors.shape == (size, min(count, size))
    torch.testing.assert_close(eigen.values, torch.linalg.eigvalsh(whole).flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        whole @ vectors, vectors * eigen.values[: vectors.shape[1]], rtol=0, atol=1e-11
    )
    identity = torch.eye(vectors.shape[1], dtype=torch.float64)
    torch.testing.assert_close(vectors.mT @ vectors, identity, rtol=0, atol=1e-12)


def test_the_matrix_that_is_given_is_not_changed() -> None:
    matrix = gram(random(20, 12))
    before = matrix.clone()
    Eigen.of(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("decades", [0, 1, 3, 8])
def test_the_poles_are_an_inverse_root_on_their_interval(decades: int) -> None:
    smallest = 3.0
    points = smallest * torch.logspace(0, decades, 1000, dtype=torch.float64)
    poles = inverse_root_poles(smallest, float(points[-1]))
    found = torch.stack([weight / (points + shift) for shift, weight in poles]).sum(0)
    torch.testing.assert_close(found, points.rsqrt(), rtol=1e-6, atol=0)
    assert all(shift > 0 and weight > 0 for shift, weight in poles)


def test_what_lapack_refuses_is_an_error_that_says_why() -> None:
    matrix = torch.full((3, 3), torch.nan, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"stedc failed with info \d+: a matrix holds NaN or Inf"):
        Eigen.of(matrix)


def test_calls_from_several_threads_do_not_mix() -> None:
    matrices = [gram(random(80, 60, seed=seed)) for seed in range(8)]
    alone = [Eigen.of(matrix).values for matrix in matrices]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda matrix: Eigen.of(matrix).values, matrices))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
