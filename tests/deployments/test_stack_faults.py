"""What a team need not watch for: the Prefect worker is killed, the Prefect server goes away for a while."""

import time
from collections.abc import Callable

import psutil
import pytest
from stacks import Stack, wait_for
from world import World

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.server, pytest.mark.s3, pytest.mark.dask]

TASKS = ("cats", "dogs", "maps", "pots")


def lay(stack: Stack, make_world: Callable[..., World], *prefixes: str) -> list[str]:
    """The same world in folders of their own, with a search for α so that a merge takes a while."""
    world = make_world("fault", tasks=TASKS)
    world.recipe["alpha"] = "label_free"
    return [stack.upload(world, prefix) for prefix in prefixes]


def wait_until_it_collects(stack: Stack, run: str) -> None:
    wait_for(
        lambda: any(line.startswith("collect") for line in stack.logs(run)), 180, lambda: str(stack.logs(run))
    )


@pytest.mark.timeout(900)
def test_a_killed_prefect_worker_holds_no_slot_and_the_next_merge_runs(
    stack: Stack, make_world: Callable[..., World]
) -> None:
    recipe, untouched = lay(stack, make_world, "worker-killed", "worker-untouched")
    lost = stack.start_run("merge/merge", recipe=recipe)
    wait_until_it_collects(stack, lost)
    queued = stack.start_run("merge/merge", recipe=recipe)
    (worker,) = stack.processes("prefect", "worker", "start")
    flows = [process for process in stack.tree() if process.environ().get("PREFECT__FLOW_RUN_ID") == lost]
    assert flows, "the run's own process"
    killed = time.monotonic()
    for process in (worker, *worker.children(recursive=True), *flows):
        process.kill()
    crashed = stack.wait(lost, 120, "CRASHED")
    assert time.monotonic() - killed < 120
    assert "No heartbeat" in crashed["state"]["message"]
    assert "prefect worker was ended by SIGKILL; starting it again" in stack.said()
    assert stack.wait(queued, 240)["state_type"] == "COMPLETED", stack.logs(queued)
    assert any("reused the activation shifts" in line for line in stack.logs(queued))
    calm = stack.start_run("merge/merge", recipe=untouched)
    assert stack.wait(calm, 240)["state_type"] == "COMPLETED", stack.logs(calm)
    assert stack.model_digest("worker-killed") == stack.model_digest("worker-untouched")


@pytest.mark.timeout(900)
def test_a_prefect_server_that_is_killed_costs_no_merge(
    stack: Stack, make_world: Callable[..., World]
) -> None:
    recipe, untouched = lay(stack, make_world, "server-killed", "server-untouched")
    run = stack.start_run("merge/merge", recipe=recipe)
    wait_until_it_collects(stack, run)
    (server,) = stack.processes("prefect", "server", "start")
    server.kill()
    wait_for(lambda: "prefect server was ended by SIGKILL; starting it again" in stack.said(), 30)
    ended = stack.wait(run, 300)
    if ended["state_type"] != "COMPLETED":
        again = stack.start_run("merge/merge", recipe=recipe)
        assert stack.wait(again, 240)["state_type"] == "COMPLETED", stack.logs(again)
    calm = stack.start_run("merge/merge", recipe=untouched)
    assert stack.wait(calm, 240)["state_type"] == "COMPLETED", "no slot is held"
    assert stack.model_digest("server-killed") == stack.model_digest("server-untouched")
    assert not psutil.pid_exists(server.pid)
