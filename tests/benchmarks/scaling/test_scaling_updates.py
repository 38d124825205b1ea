"""Updates have the norms, the spectrum and the common part of fine-tunes, and are the same every time."""

import pytest
import torch
from torch import Tensor

from benchmarks.scaling.updates import NOISE, SHARED_ENERGY, Place, base_weight, place_of, update_of

BLOCKS = 12
NAME = "visual.transformer.resblocks.6.mlp.c_fc.weight"
SHAPE = (512, 256)


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return base_weight(NAME, SHAPE, BLOCKS, 0)


def update(weight: Tensor, task: int, name: str = NAME) -> Tensor:
    return update_of(weight, place_of(name, BLOCKS), task, seed=0)


def test_any_weight_can_be_made_by_itself_again(weight: Tensor) -> None:
    first = update(weight, 0)
    update(weight, 1)
    assert torch.equal(update(weight, 0), first)
    assert not torch.equal(update(weight, 1), first)
    assert torch.equal(base_weight(NAME, SHAPE, BLOCKS, 0), weight)
    assert not torch.equal(base_weight(NAME, SHAPE, BLOCKS, 1), weight)


def test_norms_grow_with_depth_and_differ_by_kind(weight: Tensor) -> None:
    norms = {
        (kind, block): float(update(weight, 0, f"visual.transformer.resblocks.{block}.{kind}").norm())
        / float(weight.norm())
        for kind in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        for block in (0, 6, 11)
    }
    assert all(0.008 < norm < 0.032 for norm in norms.values())
    for kind in {kind for kind, _ in norms}:
        assert norms[kind, 0] < norms[kind, 6] < norms[kind, 11]
    assert len({round(norm, 4) for (_, block), norm in norms.items() if block == 6}) == 4
    assert place_of("visual.proj", BLOCKS) == Place("visual.proj", 0.5)


def test_a_decaying_low_rank_part_stands_above_dense_noise(weight: Tensor) -> None:
    values = torch.linalg.svdvals(update(weight, 0).double())
    # An own and a common part of 1/16 of the smaller side each.
    energies = values.square() / values.square().sum()
    assert values[-1] > 1e-3 * values[0], "full numerical rank"
    assert float(energies[32:].sum()) == pytest.approx(NOISE**2 / (1 + NOISE**2), rel=0.3)
    assert values[0] / values[4] > 2


def test_tasks_share_a_part_of_their_directions(weight: Tensor) -> None:
    one, other = (update(weight, task) for task in (0, 1))
    basis = torch.linalg.svd(other).U[:, :32]
    common = float((basis.mT @ one).square().sum() / one.square().sum())
    by_chance = 32 / SHAPE[0]
    assert by_chance + SHARED_ENERGY / 2 < common < by_chance + 2 * SHARED_ENERGY


def test_norms_of_the_tower_are_about_one_and_strong_in_a_few_biases() -> None:
    weights = base_weight("visual.transformer.resblocks.0.ln_1.weight", (4096,), BLOCKS, 0)
    biases = base_weight("visual.transformer.resblocks.0.ln_1.bias", (4096,), BLOCKS, 0)
    assert float(weights.mean()) == pytest.approx(1, abs=0.02)
    assert float(biases.abs().max()) > 10 * float(biases.abs().median())
