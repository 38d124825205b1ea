import torch
from bands import dense, normal, with_spectrum
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_core.linalg.band import WIDTH, Band
from esm_core.linalg.resolvent import Resolvents

EXACT = {torch.float32: 3e-3, torch.float64: 1e-10}
sizes = st.sampled_from([1, WIDTH, WIDTH + 1, 100, 131, 4 * WIDTH])
examples = settings(max_examples=40, deadline=None, derandomize=True)


@examples
@given(size=sizes, count=st.sampled_from([1, 7, 128, 300]), dtype=st.sampled_from(list(EXACT)))
def test_a_sum_of_inverses_is_what_dense_ones_give(size: int, count: int, dtype: torch.dtype) -> None:
    values = torch.linspace(0, 3, size, dtype=torch.float64)
    band = Band.of(with_spectrum(values))
    shifts, weights = [0.1, 1.0, 20.0], torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    found = Resolvents.of(band, shifts)
    assert found is not None
    inverses = [torch.linalg.inv(dense(band) + s * torch.eye(size, dtype=torch.float64)) for s in shifts]
    columns = normal(size, count)
    blocks = band.blocked(columns.to(dtype))
    found.sum(weights, blocks)
    expected = sum((w * inverse for w, inverse in zip(weights, inverses, strict=True)), torch.tensor(0.0))
    torch.testing.assert_close(band.plain(blocks).double(), expected @ columns, rtol=0, atol=EXACT[dtype])
    torch.testing.assert_close(found.traces, torch.stack([inverse.trace() for inverse in inverses]))


def test_a_band_that_a_shift_does_not_make_positive_has_no_inverse() -> None:
    band = Band.of(with_spectrum(torch.linspace(-1, 1, 70, dtype=torch.float64)))
    assert Resolvents.of(band, [0.5]) is None
    assert Resolvents.of(band, [1.5, 0.5]) is None
    assert Resolvents.of(band, [1.5]) is not None
