"""What is collected for a merge, what more for experts, and by how many runs of a fine-tune."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from whole_merge import merge_whole, planned
from world import World, weight_files

from esm_core import stage_collect
from esm_core.collected import folders, inputs_folder, is_collected, kept_of, parts
from esm_core.factor import InputFactor, ShiftFactor
from esm_core.layers import LAYER_KINDS, SMALL_MATRICES
from esm_core.plan import Plan
from esm_core.settings import ExpertSettings
from esm_core.shifts import read_factor, read_inputs, read_mean
from esm_core.stage_collect import collect_task
from esm_core.stages import is_complete
from esm_core.storage import Location
from esm_core.weights import open_tower

IN_PROJ, OUT_PROJ, C_FC, C_PROJ = (
    f"visual.transformer.resblocks.0.{layer}"
    for layer in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
)
WEIGHTS = [IN_PROJ, OUT_PROJ, C_FC, C_PROJ, *SMALL_MATRICES, "visual.class_embedding"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks whose fine-tune was run, one entry for every run."""
    seen: list[str] = []
    real = stage_collect.collect_inputs

    def counted(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(stage_collect, "collect_inputs", counted)
    return seen


def with_experts(world: World, **settings: Any) -> Plan:
    world.recipe["experts"] = {"rank": 4, **settings}
    return planned(world)


def content(folder: Location) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in folder.files()}


def test_a_merge_needs_inputs_where_they_are_smaller_and_shifts_elsewhere() -> None:
    assert kept_of(WEIGHTS, None) == {"merge": ([IN_PROJ, C_FC], [C_PROJ])}


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"layers": ["attn.in_proj", "mlp.c_fc"], "extras": False}, {}),
        ({"layers": ["mlp.c_proj"], "extras": False}, {"mlp.c_proj": [C_PROJ]}),
        ({"layers": ["mlp.c_fc"]}, {"extras": sorted(SMALL_MATRICES)}),
        (
            {"layers": LAYER_KINDS},
            {"attn.out_proj": [OUT_PROJ], "mlp.c_proj": [C_PROJ], "extras": sorted(SMALL_MATRICES)},
        ),
    ],
)
def test_experts_need_the_inputs_of_their_own_layers(
    settings: dict[str, Any], more: dict[str, list[str]]
) -> None:
    kept = kept_of(WEIGHTS, ExpertSettings(**settings))
    assert kept.pop("merge") == kept_of(WEIGHTS, None)["merge"]
    assert kept == {part: (weights, []) for part, weights in more.items()}


def test_a_merge_without_experts_collects_nothing_for_them(world: World) -> None:
    plan = planned(world)
    collect_task(plan, "cats")
    assert folders(plan, "cats") == [plan.shift_folder("cats")]
    assert is_collected(plan, "cats")
    assert len((world.store / "shifts").children()) == 1
    assert isinstance(read_factor(plan.shift_folder("cats"), IN_PROJ), InputFactor)
    assert isinstance(read_factor(plan.shift_folder("cats"), C_PROJ), ShiftFactor)


def test_the_shift_is_that_of_the_update_on_the_tasks_own_inputs(world: World) -> None:
    plan = with_experts(world)
    collect_task(plan, "cats")
    base, tuned = (
        open_tower(Location.parse(facts.weights)).read(C_PROJ).double()
        for facts in (plan.base, plan.task("cats").facts.checkpoint)
    )
    rows = read_inputs(inputs_folder(plan, "cats", C_PROJ), C_PROJ)
    shift = read_factor(plan.shift_folder("cats"), C_PROJ)
    expected = rows.factor @ (tuned - base).mT
    assert shift.rows == rows.rows
    scale = float(expected.square().sum())
    moments = shift.factor.mT @ shift.factor - expected.mT @ expected
    assert float(moments.abs().max()) < 1e-13 * scale


def test_all_folders_are_made_by_one_run(world: World, runs: list[str]) -> None:
    plan = with_experts(world)
    collect_task(plan, "cats")
    collect_task(plan, "cats")
    assert runs == ["cats"]
    assert len(folders(plan, "cats")) == 4
    assert is_collected(plan, "cats")


def test_experts_that_are_wanted_later_take_one_more_run_and_give_the_same_bytes(
    make_world: Callable[..., World], runs: list[str]
) -> None:
    later, at_once = make_world("later"), make_world("at-once")
    alone = planned(later)
    collect_task(alone, "cats")
    merge = content(alone.shift_folder("cats"))
    plan = with_experts(later)
    assert plan.shift_folder("cats") == alone.shift_folder("cats")
    assert plan.merge_digest == alone.merge_digest
    assert not is_collected(plan, "cats")
    collect_task(plan, "cats")
    assert runs == ["cats", "cats"]
    both = with_experts(at_once)
    collect_task(both, "cats")
    for ours, theirs in zip(folders(plan, "cats"), folders(both, "cats"), strict=True):
        assert ours.name == theirs.name
        assert content(ours) == content(theirs)
    assert content(plan.shift_folder("cats")) == merge


def test_a_run_that_died_between_two_folders_completes_the_others(world: World, runs: list[str]) -> None:
    plan = with_experts(world)
    collect_task(plan, "cats")
    first, *others = folders(plan, "cats")
    before = content(first)
    for folder in others[1:]:
        (folder / "complete.json").delete()
    collect_task(plan, "cats")
    assert runs == ["cats", "cats"]
    assert all(map(is_complete, others))
    assert content(first) == before


def test_fewer_experts_find_what_they_need(world: World, runs: list[str]) -> None:
    collect_task(with_experts(world), "cats")
    collect_task(with_experts(world, layers=["mlp.c_proj"]), "cats")
    assert runs == ["cats"]


def test_every_layer_with_an_expert_has_its_inputs_and_their_mean(world: World) -> None:
    plan = with_experts(world)
    collect_task(plan, "cats")
    for weight in (IN_PROJ, OUT_PROJ, C_FC, C_PROJ, *SMALL_MATRICES):
        folder = inputs_folder(plan, "cats", weight)
        assert folder in folders(plan, "cats")
        inputs = read_inputs(folder, weight)
        assert inputs.factor.shape[0] == inputs.rows, "so few that they are the inputs themselves"
        torch.testing.assert_close(read_mean(folder, weight), inputs.factor.mean(0))
    assert sum(len(part.kept.inputs) + len(part.kept.shifts) for part in parts(plan, "cats")) == 12


def test_the_base_decides_the_shifts_but_not_the_inputs(world: World) -> None:
    plan = with_experts(world)
    other = plan.model_copy(update={"base": plan.base.model_copy(update={"sha256": "0" * 64})})
    assert other.shift_folder("cats") != plan.shift_folder("cats")
    assert folders(other, "cats")[1:] == folders(plan, "cats")[1:]


def test_the_list_of_layers_decides_nothing_of_what_is_collected(world: World) -> None:
    plan = planned(world)
    world.recipe["collect"] = {"layers": ["attn.in_proj", "mlp.c_fc", "mlp.c_proj"]}
    assert folders(planned(world), "cats") == folders(plan, "cats")


def test_experts_added_to_a_merge_leave_the_published_weights_alone(world: World) -> None:
    merge_whole(world)
    model = "model/open_clip_model.safetensors"
    before = weight_files(world.store, "pets")[model]
    merges = (world.store / "merges").children()
    world.recipe["experts"] = {"rank": 4}
    _, version = merge_whole(world)
    assert version.number == 2
    assert weight_files(world.store, "pets")[model] == before
    assert (world.store / "merges").children() == merges
