import pytest
import torch
from bands import dense, normal, with_spectrum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.linalg.band import WIDTH, Band

EXACT = {torch.float32: 3e-5, torch.float64: 1e-12}
# One block, less, more, a last block of one row; panels that do and do not come in pairs, and pairs that do
# and do not; more rows than a product takes at once.
sizes = st.sampled_from(
    [1, 2, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH, 2 * WIDTH + 1, 131, 4 * WIDTH, 6 * WIDTH, 500]
)
examples = settings(max_examples=40, deadline=None, derandomize=True)


def symmetric(size: int, seed: int = 0) -> Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.mT


@examples
@given(size=sizes, dtype=st.sampled_from(list(EXACT)), seed=st.integers(0, 99))
def test_a_band_is_the_matrix_between_two_rotations(size: int, dtype: torch.dtype, seed: int) -> None:
    matrix = symmetric(size, seed)
    band = Band.of(matrix.triu().to(dtype))
    columns = torch.eye(size, dtype=dtype)
    band.rotate(columns, back=True)
    turn, scale = columns.double(), float(torch.linalg.matrix_norm(matrix, 2))
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(turn.mT @ turn, identity, rtol=0, atol=EXACT[dtype])
    torch.testing.assert_close(turn @ dense(band) @ turn.mT, matrix, rtol=0, atol=scale * EXACT[dtype])


@examples
@given(size=sizes, count=st.integers(1, 5))
def test_rotating_there_and_back_changes_nothing(size: int, count: int) -> None:
    band = Band.of(symmetric(size))
    columns = normal(size, count)
    turned = columns.clone()
    band.rotate(turned, back=False)
    band.rotate(turned, back=True)
    torch.testing.assert_close(turned, columns, rtol=0, atol=1e-12)


def test_a_band_is_no_wider_than_it_says() -> None:
    whole = dense(Band.of(symmetric(131)))
    row, column = torch.meshgrid(torch.arange(131), torch.arange(131), indexing="ij")
    assert not whole[(row - column).abs() > WIDTH].any()


@pytest.mark.parametrize("size", [5, WIDTH, 200])
def test_the_largest_eigenvalue_and_the_mean_square(size: int) -> None:
    values = torch.linspace(0, 3, size, dtype=torch.float64)
    band = Band.of(with_spectrum(values))
    assert band.largest() == pytest.approx(3, rel=1e-3)
    assert band.root_mean_square() == pytest.approx(float(values.square().mean().sqrt()))
