"""What a team need not watch for: a run, the Prefect worker or the Prefect server is killed."""

import psutil
import pytest
from stacks import FINAL, PATIENCE, Stack, wait_for
from world import World, build_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.server,
    pytest.mark.s3,
    pytest.mark.dask,
    pytest.mark.timeout(4 * PATIENCE),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Inputs with a search for α, so that a merge takes a while."""
    world = build_world(tmp_path_factory.mktemp("faults") / "world")
    world.recipe["alpha"] = "label_free"
    return world


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, world: World) -> str:
    """sha256 of the model that a merge publishes which nothing disturbs."""
    calm = stack.start_run("merge/merge", recipe=stack.upload(world, "undisturbed"))
    stack.completes(calm)
    return stack.model_digest("undisturbed")


def wait_until_it_collects(stack: Stack, run: str) -> None:
    wait_for(
        lambda: any(line.startswith("collect") for line in stack.logs(run)),
        PATIENCE,
        lambda: str(stack.logs(run)),
    )


def one_collects_and_one_waits(stack: Stack, world: World, prefix: str) -> tuple[str, str]:
    """Two runs of one recipe: the first collects, the second waits for its slot."""
    recipe = stack.upload(world, prefix)
    first = stack.start_run("merge/merge", recipe=recipe)
    wait_until_it_collects(stack, first)
    return first, stack.start_run("merge/merge", recipe=recipe)


def processes_of(stack: Stack, run: str) -> list[psutil.Process]:
    return [process for process in stack.tree() if process.environ().get("PREFECT__FLOW_RUN_ID") == run]


def worker_of(stack: Stack) -> psutil.Process:
    (worker,) = stack.processes("prefect", "worker", "start")
    return worker


def kill_with_all_it_started(process: psutil.Process) -> None:
    """Stopped first, so that it starts nothing between the look at its children and its end."""
    process.suspend()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 10)
    for member in (process, *process.children(recursive=True)):
        member.kill()


def gets_the_slot_and_completes(stack: Stack, run: str) -> None:
    """However long the merge takes, it begins before a slot that is held would be freed, after 300 s."""
    stack.wait(run, 240, "PENDING", "RUNNING", *FINAL)
    stack.completes(run)


def is_over(stack: Stack, lost: str, queued: str, within: float) -> None:
    """The lost run ends and frees its slot in time, and the one that waited for it completes."""
    stack.wait(lost, within)
    gets_the_slot_and_completes(stack, queued)


def crashed_because(stack: Stack, run: str, why: str) -> None:
    state = stack.run(run)["state"]
    assert state["type"] == "CRASHED", state
    assert why in (state["message"] or ""), state


def test_a_killed_prefect_worker_and_its_run_hold_no_slot(
    stack: Stack, world: World, undisturbed: str
) -> None:
    lost, queued = one_collects_and_one_waits(stack, world, "both-killed")
    flows = processes_of(stack, lost)
    assert flows, "the run's own process"
    kill_with_all_it_started(worker_of(stack))
    wait_for(lambda: not any(process.is_running() for process in flows), 10)
    is_over(stack, lost, queued, within=120)
    crashed_because(stack, lost, "No heartbeat")
    assert "prefect worker was ended by SIGKILL; starting it again" in stack.said()
    assert any("reused the activation shifts" in line for line in stack.logs(queued))
    assert stack.model_digest("both-killed") == undisturbed


def test_a_killed_run_holds_no_slot(stack: Stack, world: World, undisturbed: str) -> None:
    lost, queued = one_collects_and_one_waits(stack, world, "run-killed")
    for process in processes_of(stack, lost):
        process.kill()
    is_over(stack, lost, queued, within=120)
    assert stack.run(lost)["state_type"] == "CRASHED"
    assert stack.model_digest("run-killed") == undisturbed


def test_a_killed_prefect_worker_costs_its_run_nothing(stack: Stack, world: World, undisturbed: str) -> None:
    orphan, queued = one_collects_and_one_waits(stack, world, "worker-killed")
    worker_of(stack).kill()
    is_over(stack, orphan, queued, within=PATIENCE)
    assert stack.run(orphan)["state_type"] == "COMPLETED"
    assert stack.model_digest("worker-killed") == undisturbed


def test_a_prefect_worker_killed_before_its_run_began_holds_no_slot(
    stack: Stack, world: World, undisturbed: str
) -> None:
    recipe = stack.upload(world, "pending-killed")
    lost = stack.start_run("merge/merge", recipe=recipe)
    stack.wait(lost, 60, "PENDING")
    kill_with_all_it_started(worker_of(stack))
    assert stack.run(lost)["state_type"] == "PENDING"
    queued = stack.start_run("merge/merge", recipe=recipe)
    is_over(stack, lost, queued, within=120)
    crashed_because(stack, lost, "Did not begin")
    assert stack.model_digest("pending-killed") == undisturbed


def test_a_prefect_server_that_is_killed_costs_no_merge(stack: Stack, world: World, undisturbed: str) -> None:
    recipe = stack.upload(world, "server-killed")
    run = stack.start_run("merge/merge", recipe=recipe)
    wait_until_it_collects(stack, run)
    (server,) = stack.processes("prefect", "server", "start")
    server.kill()
    wait_for(lambda: "prefect server was ended by SIGKILL; starting it again" in stack.said(), 30)
    ended = stack.wait(run, PATIENCE)
    if ended["state_type"] != "COMPLETED":
        again = stack.start_run("merge/merge", recipe=recipe)
        stack.completes(again)
    calm = stack.start_run("merge/merge", recipe=stack.upload(world, "after-the-server"))
    gets_the_slot_and_completes(stack, calm)
    assert stack.model_digest("server-killed") == stack.model_digest("after-the-server") == undisturbed
    assert not psutil.pid_exists(server.pid)
