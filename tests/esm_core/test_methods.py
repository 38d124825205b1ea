from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from esm_core import InputFactor, MergeSettings
from esm_core.methods import BASELINES, average, iso_c, iso_cts, task_arithmetic, tsv_m
from esm_core.methods.esm import layer_scales, merge_layer, polarised


def random_updates(*shape: int, count: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def svd_polar(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


class OneAtATime(Sequence[Tensor]):
    """Updates that are made when asked for, as the ones read from a checkpoint are."""

    def __init__(self, updates: list[Tensor]) -> None:
        self.updates = updates

    def __len__(self) -> int:
        return len(self.updates)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self.updates[index].clone()


def test_the_baselines_have_their_published_coefficients() -> None:
    coefficients = {name: baseline.coefficient for name, baseline in BASELINES.items()}
    spectral = dict.fromkeys(("tsv_m", "iso_c", "iso_cts"), 1.0)
    assert coefficients == {"average": 1.0, "task_arithmetic": 0.3, **spectral}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("shape", [(8, 6), (7,), (3, 2, 2, 2), ()])
def test_every_baseline_merges_lazy_float32_updates_of_any_shape_in_float64(
    name: str, shape: tuple[int, ...]
) -> None:
    updates = [update.float() for update in random_updates(*shape)]
    merged = BASELINES[name].merge_weight(OneAtATime(updates))
    assert (merged.shape, merged.dtype) == (shape, torch.float64)
    exact = BASELINES[name].merge_weight([update.double() for update in updates])
    torch.testing.assert_close(merged, exact, rtol=1e-12, atol=1e-12)


def test_average_is_the_mean_and_task_arithmetic_the_sum() -> None:
    updates = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]
    assert average.merge_weight(updates).tolist() == [2, 4]
    assert task_arithmetic.merge_weight(updates).tolist() == [4, 8]
    assert updates[0].tolist() == [1, 2]


@pytest.mark.parametrize("method", [tsv_m, iso_c, iso_cts])
def test_vectors_and_convolutions_get_the_mean_from_the_spectral_methods(method: object) -> None:
    for shape in ((7,), (3, 2, 2, 2)):
        updates = random_updates(*shape)
        torch.testing.assert_close(method.merge_weight(updates), sum(updates) / 3)  # type: ignore[attr-defined]


# TSV-M.


@pytest.mark.parametrize("shape", [(9, 9), (20, 9), (9, 20)])
@pytest.mark.parametrize("rank", [None, 1, 2])
def test_tsv_m_whitens_the_singular_vectors_of_all_tasks(shape: tuple[int, int], rank: int | None) -> None:
    updates = random_updates(*shape)
    parts = [torch.linalg.svd(update, full_matrices=False) for update in updates]
    r = rank or 3
    left = svd_polar(torch.cat([part.U[:, :r] for part in parts], dim=1))
    right = svd_polar(torch.cat([part.Vh[:r] for part in parts]))
    expected = left @ torch.diag(torch.cat([part.S[:r] for part in parts])) @ right
    torch.testing.assert_close(tsv_m.merge_weight(updates, rank), expected, rtol=0, atol=1e-9)


def test_tsv_m_keeps_orthogonal_low_rank_updates_whole() -> None:
    first, second = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    first[0, 1], second[3, 4] = 2.0, -5.0
    # Rank 3 would be kept of each, but each has rank 1: no arbitrary direction may take the others' place.
    torch.testing.assert_close(tsv_m.merge_weight([first, second]), first + second)
    torch.testing.assert_close(tsv_m.merge_weight([first, torch.zeros_like(first)]), first)


def test_tsv_m_of_low_rank_updates_does_not_follow_rounding_noise() -> None:
    updates = [left @ right for left, right in zip(random_updates(16, 2), random_updates(2, 16), strict=True)]
    noise = random_updates(16, 16, seed=1)
    noisy = [update + 1e-16 * extra for update, extra in zip(updates, noise, strict=True)]
    torch.testing.assert_close(tsv_m.merge_weight(noisy), tsv_m.merge_weight(updates), rtol=0, atol=1e-10)
    assert torch.linalg.matrix_rank(tsv_m.merge_weight(updates), rtol=1e-10) == 6


# Iso-C.


@pytest.mark.parametrize("shape", [(9, 9), (20, 9), (9, 20)])
def test_iso_c_flattens_the_spectrum_to_its_mean(shape: tuple[int, int]) -> None:
    updates = random_updates(*shape)
    total = sum(updates)
    mean = torch.linalg.svdvals(total).mean()
    merged = iso_c.merge_weight(updates)
    torch.testing.assert_close(torch.linalg.svdvals(merged), mean.expand(9), rtol=1e-9, atol=0)
    torch.testing.assert_close(merged, mean * svd_polar(total), rtol=0, atol=1e-9)


def test_iso_c_of_updates_that_cancel_is_zero() -> None:
    update = random_updates(5, 4)[0]
    assert not iso_c.merge_weight([update, -update]).any()


# Iso-CTS.


def test_iso_cts_shares_the_directions_out_as_its_authors_do() -> None:
    assert iso_cts.kept_ranks((128, 512), 8) == (104, 3)
    assert iso_cts.kept_ranks((768, 768), 20) == (608, 8)
    assert iso_cts.kept_ranks((4, 9), 3) == (4, 0)


@pytest.mark.parametrize("shape", [(20, 20), (30, 20), (20, 30)])
def test_iso_cts_adds_each_tasks_own_directions_to_the_common_ones(shape: tuple[int, int]) -> None:
    updates = random_updates(*shape)
    left, values, right = torch.linalg.svd(sum(updates), full_matrices=False)
    common = iso_cts.kept_ranks(shape, 3)[0]
    assert common == 17
    lefts, rights, kept = [left[:, :common]], [right[:common]], [values[:common]]
    for update in updates:
        rest = update - left[:, :common] @ left[:, :common].mT @ update
        own = torch.linalg.svd(rest, full_matrices=False)
        lefts.append(own.U[:, :1])
        rights.append(own.Vh[:1])
        kept.append(own.S[:1])
    mean = torch.cat(kept).mean()
    expected = mean * svd_polar(torch.cat(lefts, dim=1)) @ svd_polar(torch.cat(rights))
    merged = iso_cts.merge_weight(updates)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-9)
    # Both factors are isometries, so every direction has the mean's strength.
    torch.testing.assert_close(torch.linalg.svdvals(merged), mean.expand(20), rtol=1e-9, atol=0)


def test_iso_cts_without_room_for_own_directions_is_iso_c() -> None:
    updates = random_updates(4, 9)
    torch.testing.assert_close(iso_cts.merge_weight(updates), iso_c.merge_weight(updates), rtol=0, atol=1e-9)


def test_iso_cts_of_zero_updates_is_zero() -> None:
    assert not iso_cts.merge_weight([torch.zeros(20, 20)] * 2).any()


# ESM's parts.


def test_polarised_scaling_lifts_what_is_above_the_mean() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert polarised(norms, 2).tolist() == [0.25, 1, 2.25]
    assert polarised(norms, 0).tolist() == [1, 1, 1]
    assert polarised(torch.zeros(3), 2).tolist() == [1, 1, 1]


def test_layer_scales_compare_layers_of_one_kind_only() -> None:
    block = "visual.transformer.resblocks"
    norms = {
        f"{block}.0.mlp.c_fc.weight": 1.0,
        f"{block}.1.mlp.c_fc.weight": 3.0,
        f"{block}.0.attn.out_proj.weight": 10.0,
        f"{block}.1.attn.out_proj.weight": 30.0,
        f"{block}.0.attn.in_proj_weight": 7.0,
        f"{block}.0.mlp.c_fc.bias": 100.0,
        "visual.proj": 5.0,
    }
    assert layer_scales(norms, MergeSettings()) == pytest.approx(
        dict(zip(norms, [0.25, 2.25, 0.25, 2.25, 1, 1, 1], strict=True))
    )
    assert layer_scales(norms, MergeSettings(scaling_exponent=1.0)) == pytest.approx(
        dict(zip(norms, [0.5, 1.5, 0.5, 1.5, 1, 1, 1], strict=True))
    )
    assert layer_scales(norms, MergeSettings(inter_layer=False)) == dict.fromkeys(norms, 1.0)
    assert layer_scales({}, MergeSettings()) == {}


def test_layer_scales_of_layers_that_do_not_move_are_one() -> None:
    names = [f"resblocks.{i}.mlp.c_fc.weight" for i in range(2)]
    assert layer_scales(dict.fromkeys(names, 0.0), MergeSettings()) == dict.fromkeys(names, 1.0)


def test_a_layer_reports_ranks_spectra_and_the_overlap_of_the_bases() -> None:
    up, across = torch.zeros(2, 6, 4, dtype=torch.float64)
    up[0, 0], up[1, 1] = 3, 2
    across[1, 1], across[2, 2] = 3, 2
    rows = InputFactor(torch.eye(4, dtype=torch.float64), 5)
    merged = merge_layer([(up, rows), (across, rows)], 2, MergeSettings())
    assert merged.ranks == [2, 2]
    assert [values.tolist() for values in merged.eigenvalues] == [pytest.approx([9 / 4, 4 / 4])] * 2
    # One direction of two is shared.
    torch.testing.assert_close(merged.overlaps, torch.tensor([[1, 0.5], [0.5, 1]], dtype=torch.float64))
    assert merged.update.shape == (6, 4)


def test_a_layer_takes_its_tasks_from_a_generator_one_at_a_time() -> None:
    updates, rows = random_updates(8, 4), random_updates(20, 4, seed=1)
    pairs = [(update, InputFactor(x, 20)) for update, x in zip(updates, rows, strict=True)]
    once = merge_layer(iter(pairs), 3, MergeSettings())
    assert torch.equal(once.update, merge_layer(pairs, 3, MergeSettings()).update)
