import pytest
import torch
from torch import Tensor
from world import World, add_validation, merge_layers

from esm_core.alpha.choice import choose
from esm_core.alpha.files import choice_file, score_file
from esm_core.alpha.line import write_line
from esm_core.alpha.proxy_features import read_references, write_references
from esm_core.alpha.scores import displacement_cosine, keep_choice, recall_choice, score
from esm_core.errors import IntegrityError
from esm_core.plan import Plan


def unit_rows(seed: int) -> Tensor:
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def prepared(world: World, alpha: str) -> Plan:
    world.recipe["alpha"] = alpha
    plan = merge_layers(world)
    write_line(plan)
    return plan


# The score itself.


def test_moving_features_as_the_fine_tune_does_scores_one_and_against_it_minus_one() -> None:
    base, tuned = unit_rows(0), unit_rows(1)
    assert displacement_cosine(tuned, base, tuned) == pytest.approx(1)
    assert displacement_cosine(base + 0.1 * (tuned - base), base, tuned) == pytest.approx(1)
    assert displacement_cosine(base - (tuned - base), base, tuned) == pytest.approx(-1)


def test_moving_all_images_alike_changes_nothing() -> None:
    base, tuned, merged = unit_rows(0), unit_rows(1), unit_rows(2)
    common = torch.tensor([3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    expected = displacement_cosine(merged, base, tuned)
    assert displacement_cosine(merged + common, base, tuned) == pytest.approx(expected)


def test_one_image_is_scored_by_its_displacement() -> None:
    base, tuned = unit_rows(0)[:1], unit_rows(1)[:1]
    assert displacement_cosine(tuned, base, tuned) == pytest.approx(1)


def test_features_that_overflow_have_the_worst_score() -> None:
    base, tuned = unit_rows(0), unit_rows(1)
    assert displacement_cosine(torch.full_like(base, torch.nan), base, tuned) == -1


# Scores in the store.


def test_a_label_free_score_needs_no_label(world: World) -> None:
    for task in world.recipe["tasks"]:
        del task["test"], task["head"]
    plan = prepared(world, "label_free")
    write_references(plan, "dogs")
    base, tuned = read_references(plan, "dogs")
    assert base.shape == tuned.shape == (4, 16)
    torch.testing.assert_close(tuned.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    assert -1 <= score(plan, 1.5, "dogs") <= 1


@pytest.mark.parametrize("method", ["label_free", "validation"])
def test_a_score_is_computed_once(world: World, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    add_validation(world)
    plan = prepared(world, method)
    write_references(plan, "dogs")
    first = score(plan, 1.5, "dogs")
    assert len({score_file(plan, alpha, name) for alpha in (1.5, 2.0) for name in ("cats", "dogs")}) == 4
    monkeypatch.delattr("esm_core.alpha.scores.build_tower")
    assert score(plan, 1.5, "dogs") == first


def test_what_a_search_chose_is_known_to_the_next_run_with_the_same_inputs(world: World) -> None:
    plan = prepared(world, "label_free")
    assert recall_choice(plan) == plan
    chosen = choose("label_free", {1.0: 0.5, 2.0: 0.4})
    assert keep_choice(plan, chosen).alpha == recall_choice(plan).alpha == chosen
    world.recipe["evaluate"] = {"batch_size": 3}
    assert recall_choice(merge_layers(world)).alpha is None


def test_a_plan_whose_alpha_is_fixed_needs_no_search(world: World) -> None:
    plan = merge_layers(world)
    assert plan.alpha is not None
    assert (plan.alpha.value, plan.alpha.method, plan.alpha.curve) == (2.0, "fixed", [])
    assert recall_choice(plan) is plan


def test_a_damaged_choice_is_named(world: World) -> None:
    plan = prepared(world, "label_free")
    choice_file(plan).write_bytes(b"{")
    with pytest.raises(IntegrityError, match=r"alphas/\w+\.json: is damaged"):
        recall_choice(plan)
