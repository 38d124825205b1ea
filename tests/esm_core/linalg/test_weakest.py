import pytest
import torch
from bands import dense, with_spectrum

from esm_core.linalg.band import Band
from esm_core.linalg.resolvent import Resolvents
from esm_core.linalg.weakest import weakest

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
