import pytest
import torch

from esm_core.report.curves import curve_ranks, energy_shares
from esm_core.report.layers import directions_for, share_at
from esm_core.report.spectra import _energies, sampled


def test_a_curve_has_few_points_from_one_direction_to_all() -> None:
    ranks = curve_ranks(1024)
    assert (ranks[0], ranks[-1]) == (1, 1024)
    assert ranks == sorted(set(ranks))
    assert len(ranks) <= 32
    assert curve_ranks(1) == [1]


def test_shares_are_sums_of_the_strongest_over_all() -> None:
    energies = torch.tensor([6.0, 3.0, 1.0])
    assert energy_shares(energies, [1, 2, 3, 8]) == [0.6, 0.9, 1.0, 1.0]


def test_an_update_that_is_nothing_has_no_curve() -> None:
    assert energy_shares(torch.zeros(4), [1, 4]) is None
    assert energy_shares(torch.zeros(0), [1]) is None


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_energies_of_an_update_are_its_squared_singular_values(shape: tuple[int, int]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.svdvals(update.double()).square()
    torch.testing.assert_close(_energies(update), expected, rtol=1e-4, atol=1e-5)


def test_the_first_the_middle_and_the_last_layer_of_every_kind_are_sampled() -> None:
    weights = [f"visual.transformer.resblocks.{b}.{kind}" for b in range(12) for kind in KINDS]
    found = sampled([*weights, "visual.proj"])
    assert found == sorted(f"visual.transformer.resblocks.{b}.{kind}" for b in (0, 6, 11) for kind in KINDS)
    assert len(sampled(weights[: 2 * len(KINDS)])) == 2 * len(KINDS)


KINDS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def test_a_curve_is_read_between_its_points() -> None:
    ranks, curve = [1, 2, 4, 8], [0.5, 0.7, 0.9, 1.0]
    assert share_at(ranks, curve, 3) == pytest.approx(0.8)
    assert share_at(ranks, curve, 0.5) == 0.5
    assert share_at(ranks, curve, 99) == 1.0
    assert directions_for(ranks, curve, 0.9) == 4
    assert directions_for(ranks, curve, 0.95) == 8
