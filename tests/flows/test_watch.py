"""The watch starts a merge once when inputs change, and not again while it is queued or after it failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Crashed, Failed
from safetensors.torch import load_file, save_file
from services import Command
from world import World

from esm_core.errors import EsmergeError, InputError
from esm_core.registry import Landing, land
from esm_core.storage import Location
from flows.merge import merge
from flows.watch import watch
from tasks.watch import ATTEMPTS, decide

pytestmark = [pytest.mark.server]


@pytest.fixture(scope="module")
def deployment(prefect_server: str) -> str:
    """The merge deployment, which nobody serves: started merges stay scheduled."""
    del prefect_server
    merge.to_deployment("unserved").apply()
    return "merge/unserved"


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    del prefect_server
    with get_client(sync_client=True) as found:
        yield found


def started(client: SyncPrefectClient, recipe: Path) -> list[FlowRun]:
    runs = client.read_flow_runs(limit=200, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return [run for run in runs if run.parameters.get("recipe") == str(recipe) and run.deployment_id]


def test_changed_inputs_start_one_merge(
    world: World, esmerge: Command, deployment: str, client: SyncPrefectClient
) -> None:
    recipe = world.recipe_path
    assert watch(str(recipe), deployment).startswith("started merge-pets")
    assert "under way or queued" in watch(str(recipe), deployment)
    (run,) = started(client, recipe)
    assert run.state_type == StateType.SCHEDULED
    assert esmerge("merge", recipe).code == 0
    assert watch(str(recipe), deployment) == "up to date: v000001"
    change(world, "dogs")
    assert watch(str(recipe), deployment).startswith("started")
    assert len(started(client, recipe)) == 2


def change(world: World, name: str) -> None:
    path = world.root / f"{name}.safetensors"
    save_file({key: value * 1.01 for key, value in load_file(path).items()}, path)


def test_a_merge_that_fails_again_and_again_is_given_up(
    world: World, deployment: str, client: SyncPrefectClient
) -> None:
    recipe = world.recipe_path
    for state in (Crashed(), Failed(), Crashed()):
        assert watch(str(recipe), deployment).startswith("started")
        waiting = [run for run in started(client, recipe) if run.state_type == StateType.SCHEDULED]
        client.set_flow_run_state(waiting[0].id, state, force=True)
    with pytest.raises(EsmergeError, match=r"failed 3 times .* press Run"):
        watch(str(recipe), deployment)
    change(world, "cats")
    assert watch(str(recipe), deployment).startswith("started"), "other inputs are another matter"


def test_a_deployment_that_is_not_there_is_named(world: World, prefect_server: str) -> None:
    with pytest.raises(InputError, match=r"no deployment merge/nowhere .*deployments.register"):
        watch(str(world.recipe_path), "merge/nowhere")


def test_a_registry_that_fills_up(world: World, deployment: str) -> None:
    registry = world.root / "registry"
    del world.recipe["tasks"]
    world.recipe["tasks_from"] = {"registry": str(registry)}
    recipe = str(world.recipe_path)
    assert watch(recipe, deployment) == "there is too little to merge yet"
    for name in ("cats", "dogs"):
        checkpoint, proxy = world.root / f"{name}.safetensors", world.root / name / "proxy"
        landing = Landing(name, Location.parse(str(checkpoint)), Location.parse(str(proxy)))
        land(Location.parse(str(registry)), landing)
    assert watch(recipe, deployment).startswith("started")


@pytest.mark.parametrize(
    ("states", "decision"),
    [
        ([], "start"),
        ([StateType.COMPLETED], "start"),
        ([StateType.FAILED, StateType.CRASHED], "start"),
        ([StateType.FAILED, StateType.RUNNING], "under way"),
        ([StateType.SCHEDULED], "under way"),
        ([StateType.CRASHED] * ATTEMPTS, "given up"),
        ([StateType.FAILED, StateType.COMPLETED], "start"),
    ],
)
def test_what_is_decided(states: list[StateType], decision: str) -> None:
    assert decide(states) == decision
