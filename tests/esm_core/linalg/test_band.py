import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.linalg.band import WIDTH, Band
from esm_core.linalg.resolvent import Resolvents
from esm_core.linalg.weakest import weakest

EXACT = {torch.float32: 3e-5, torch.float64: 1e-12}
# One block, less, more, a last block of one row, and panels that do and do not come in pairs.
sizes = st.sampled_from([1, 2, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH, 2 * WIDTH + 1, 100, 131, 4 * WIDTH])
examples = settings(max_examples=40, deadline=None, derandomize=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(size: int, seed: int = 0) -> Tensor:
    matrix = random(size, size, seed=seed)
    return matrix + matrix.mT


def dense(band: Band) -> Tensor:
    """``B``, ``[n, n]``."""
    eye = torch.eye(band.size, dtype=torch.float64)
    return band.plain(band.times(band.blocked(eye)))


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    turn = torch.linalg.qr(random(values.numel(), values.numel(), seed=seed)).Q
    matrix = (turn * values) @ turn.mT
    return (matrix + matrix.mT) / 2


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
    columns = random(size, count)
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


@examples
@given(size=sizes, count=st.sampled_from([1, 7, 128, 300]), dtype=st.sampled_from(list(EXACT)))
def test_a_sum_of_inverses_is_what_dense_ones_give(size: int, count: int, dtype: torch.dtype) -> None:
    values = torch.linspace(0, 3, size, dtype=torch.float64)
    band = Band.of(with_spectrum(values))
    shifts, weights = [0.1, 1.0, 20.0], torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    found = Resolvents.of(band, shifts)
    assert found is not None
    inverses = [torch.linalg.inv(dense(band) + s * torch.eye(size, dtype=torch.float64)) for s in shifts]
    columns = random(size, count)
    blocks = band.blocked(columns.to(dtype))
    found.sum(weights, blocks)
    expected = sum((w * inverse for w, inverse in zip(weights, inverses, strict=True)), torch.tensor(0.0))
    exact = 100 * EXACT[dtype]
    torch.testing.assert_close(band.plain(blocks).double(), expected @ columns, rtol=0, atol=exact)
    torch.testing.assert_close(found.traces, torch.stack([inverse.trace() for inverse in inverses]))


def test_a_band_that_a_shift_does_not_make_positive_has_no_inverse() -> None:
    band = Band.of(with_spectrum(torch.linspace(-1, 1, 70, dtype=torch.float64)))
    assert Resolvents.of(band, [0.5]) is None
    assert Resolvents.of(band, [1.5, 0.5]) is None
    assert Resolvents.of(band, [1.5]) is not None


SPECTRA = {
    "squares": torch.arange(1, 401, dtype=torch.float64).square() / 160_000,
    "zeros": torch.cat([torch.zeros(60), torch.linspace(0.5, 1, 340)]).double(),
    "one zero": torch.cat([torch.zeros(1), torch.linspace(0.5, 1, 399)]).double(),
    "cluster": torch.cat([torch.full((90,), 1e-5), torch.linspace(0.5, 1, 310)]).double(),
    "none": torch.linspace(0.5, 1, 400, dtype=torch.float64),
    "all alike": torch.ones(400, dtype=torch.float64),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("blur", [1e-6, 1e-8])
def test_the_weakest_directions_are_those_an_inverse_root_would_get_wrong(spectrum: str, blur: float) -> None:
    values, allowed = SPECTRA[spectrum], 1e-4
    band = Band.of(with_spectrum(values))
    resolvents = Resolvents.of(band, [3.0**-n for n in range(12, -1, -1)])
    assert resolvents is not None
    found = weakest(band, resolvents, blur, allowed)
    assert found is not None
    count = found.values.numel()
    torch.testing.assert_close(found.values, values[:count], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(
        found.vectors.mT @ found.vectors, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-10
    )
    left = (blur / values[count:]).square().mean().sqrt()
    assert left < 2 * allowed
    most = (blur / values[max(count - 32, 0) :].clamp(min=1e-12)).square().mean().sqrt()
    assert count == 0 or most > allowed / 2
    rest = dense(band) @ found.vectors - found.vectors * found.values
    assert rest.norm() < 1e-3 * values[count] * 20


def test_too_many_weak_directions_are_not_sought() -> None:
    values = torch.cat([torch.zeros(250), torch.ones(150)]).double()
    band = Band.of(with_spectrum(values))
    resolvents = Resolvents.of(band, [1e-4, 1.0])
    assert resolvents is not None
    assert weakest(band, resolvents, 1e-7, 1e-5) is None
