"""The stack as people start it: what answers, what listens, what is registered, how it ends, and the demo."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from prefect_database import give_database
from quick_demo import Prepared
from stacks import (
    BUCKET,
    FINAL,
    PATIENCE,
    ROOT,
    STARTED,
    Stack,
    free_base,
    refused_stack,
    running_stack,
    wait_for,
)
from world import World

from deployments.stack.http import ask
from deployments.stack.layout import PORTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.s3,
    pytest.mark.dask,
    pytest.mark.timeout(4 * PATIENCE),
]


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that the stack did not start, of the same user and in the same folder."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=ROOT)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def make(target: str, **variables: object) -> list[str]:
    """The command that people type, for the environment that runs the tests."""
    environment = Path(sys.prefix)
    given = [f"{name}={value}" for name, value in variables.items()]
    return ["make", "-s", "-o", f"{environment}/.installed", target, f"VENV={environment}", *given]


def registered(stack: Stack) -> tuple[list[str], list[str], list[str]]:
    """Names of deployments, automations and work pools."""
    page = {"limit": 100, "offset": 0}
    kinds = ("deployments", "automations", "work_pools")
    deployments, automations, pools = (ask(f"{stack.api}/{kind}/filter", page) for kind in kinds)
    return tuple(sorted(item["name"] for item in found) for found in (deployments, automations, pools))  # type: ignore[return-value]


def test_every_part_answers(stack: Stack) -> None:
    layout = stack.layout
    assert ask(f"{stack.api}/health") is True
    assert ask(f"{layout.url('dask dashboard')}/json/counts.json")["workers"] == 2
    workers = ask(f"{layout.url('dask dashboard')}/json/identity.json")["workers"].values()
    assert sorted((w["nthreads"], w["resources"].get("GPU", 0)) for w in workers) == [(1, 0), (1, 1)]
    assert stack.files.exists(BUCKET)
    settings = ask(f"{layout.url('prefect')}/ui-settings")
    assert settings["api_url"] == stack.api
    assert registered(stack) == (
        ["clean", "merge", "watch"],
        ["esmerge-landed", "esmerge-lost-runs", "esmerge-unstarted-runs"],
        ["esmerge"],
    )
    for schedule in ask(f"{stack.api}/deployments/name/watch/watch")["schedules"]:
        assert not schedule["active"], "there is no recipe yet that it could look at"


def test_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    listening = set()
    for process in stack.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listening.add((connection.laddr.ip, connection.laddr.port))
    assert {address for address, _ in listening} == {"127.0.0.1"}
    expected = {stack.layout.port(name) for name in PORTS if name != "s3 iam"}
    assert expected <= {port for _, port in listening}


def test_it_stops_what_it_started_and_nothing_else(tmp_path: Path, bystander: psutil.Process) -> None:
    state, base = tmp_path / "state", free_base()
    give_database(state / "prefect")
    with running_stack(state, base) as stack:
        once = registered(stack)
        stack.files.pipe_file(f"{BUCKET}/kept", b"kept")
        same_folder = refused_stack(state, free_base())
        assert same_folder.code == 2
        assert f"A stack is running with {state} already (process {stack.process.pid})" in same_folder.err
        same_ports = refused_stack(tmp_path / "other", base)
        assert same_ports.code == 2
        assert f"port {base} (for prefect)" in same_ports.err
        assert "ESMERGE_STACK_PORT_BASE" in same_ports.err
        tree = stack.tree()
        started = time.monotonic()
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(30) == 0
        assert time.monotonic() - started < 20
        assert not any(process.is_running() for process in tree), stack.said()
        order = [line.split("s  ")[1] for line in stack.said().splitlines() if line.endswith(" stopped")]
        assert order[0] == "prefect worker stopped"
        assert order[-1] == "s3 stopped"
    with running_stack(state, base) as stack:
        assert registered(stack) == once
        assert stack.files.cat_file(f"{BUCKET}/kept") == b"kept"
        tree = stack.tree()
        stack.process.kill()
        stack.process.wait()
        wait_for(lambda: not any(process.is_running() for process in tree), 15)
    assert bystander.is_running()


def test_ctrl_c_on_make_stack_stops_all_of_it(tmp_path: Path) -> None:
    base, output = free_base(), tmp_path / "output"
    environment = {**os.environ, "ESMERGE_STACK_PORT_BASE": str(base)}
    with output.open("wb") as stream:
        process = subprocess.Popen(
            make("stack", STACK=tmp_path / "state"),
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_for(lambda: STARTED in output.read_text() or process.poll() is not None, 300, output.read_text)
        said = output.read_text()
        assert f"Prefect   http://127.0.0.1:{base}/v2" in said
        assert said.index("To see it work, in another terminal: make stack-demo") < said.index(STARTED)
        tree = psutil.Process(process.pid).children(recursive=True)
        assert len(tree) >= 7
        # A terminal sends it to every process of the foreground.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        assert output.read_text().rstrip().endswith("s3 stopped")
        assert not any(part.is_running() for part in tree)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_part_that_dies_stops_the_stack_and_is_named(tmp_path: Path) -> None:
    give_database(tmp_path / "state" / "prefect")
    with running_stack(tmp_path / "state", free_base()) as stack:
        tree = stack.tree()
        (scheduler,) = stack.processes("dask", "scheduler")
        scheduler.kill()
        assert stack.process.wait(30) == 1
        said = stack.said()
        assert "dask scheduler was ended by SIGKILL. The end of" in said
        assert str(stack.layout.logs / "dask-scheduler.log") in said
        assert "Traceback" not in said.partition("The end of")[0]
        assert not any(process.is_running() for process in tree)


def test_the_demo_shows_two_versions_made_by_the_platform_alone(
    stack: Stack, quick_demo: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = tmp_path_factory.mktemp("demo") / "models"
    quick_demo(models)
    command = make("stack-demo", STACK=stack.layout.state, DEMO=models)
    command.append(f"STACK_DEMO_FLAGS=--quick --minutes {PATIENCE / 60:g}")
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3 * PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "watch" in done.stdout
    assert (
        "v000002 after v000001: collected textures; reused the shifts of digits, mnist, photos" in done.stdout
    )
    assert f"{stack.layout.url('prefect')}/v2/runs" in done.stdout
    secrets = credentials(stack)
    for text in (done.stdout, done.stderr, stack.said()):
        assert not any(secret in text for secret in secrets)
    for log in stack.layout.logs.iterdir():
        text = log.read_text(errors="replace")
        assert not any(secret in text for secret in secrets), log
    with contextlib.closing(sqlite3.connect(stack.layout.state / "prefect" / "prefect.db")) as database:
        dump = "\n".join(database.iterdump())
    assert "textures" in dump
    assert not any(secret in dump for secret in secrets)
    for process in stack.tree():
        with contextlib.suppress(psutil.Error):
            assert not any(secret in part for secret in secrets for part in process.cmdline())


def test_merges_wait_for_each_other_and_none_is_lost(stack: Stack, world: World) -> None:
    world.recipe |= {"alpha": "label_free", "store": f"s3://{BUCKET}/queue/store"}
    recipe = stack.upload(world, "queue")
    world.recipe["tasks"] = world.recipe["tasks"][:2]
    fewer = stack.upload(world, "queue/fewer")
    runs = [stack.start_run("merge/merge", recipe=recipe)]
    stack.wait(runs[0], 60, "PENDING", "RUNNING")
    runs += [stack.start_run("merge/merge", recipe=fewer) for _ in range(2)]
    at_once, waited = 0, False

    def all_ended() -> bool:
        nonlocal at_once, waited
        states = [stack.run(run)["state"] for run in runs]
        at_once = max(at_once, sum(state["type"] in ("PENDING", "RUNNING") for state in states))
        waited |= any(state["name"] == "AwaitingConcurrencySlot" for state in states)
        return all(state["type"] in FINAL for state in states)

    wait_for(all_ended, 2 * PATIENCE, lambda: str([stack.run(run)["state"] for run in runs]))
    assert [stack.run(run)["state_type"] for run in runs] == ["COMPLETED"] * 3
    assert (at_once, waited) == (1, True)
    published = [path for path in stack.files.find(f"{BUCKET}/queue/store") if path.endswith("manifest.json")]
    assert len(published) == 2, "the third run found what it would have published"
    # Logs come in bundles, the last one after the end of the run.
    unchanged = "up to date: pets v000002"
    wait_for(lambda: any(line.startswith(unchanged) for run in runs[1:] for line in stack.logs(run)), 30)
    # What the library says on a Dask worker is in the log of the run.
    lines = [line for run in runs for line in stack.logs(run)]
    assert any(re.search(r"\d of \d decompositions were in the store", line) for line in lines)
    shown = ask(f"{stack.api}/task_runs/filter", {"flow_runs": {"id": {"any_": runs}}, "limit": 200})
    assert {"collect-cats", "inspect-maps", "publish"} <= {
        re.sub("-[0-9a-f]{3}$", "", run["name"]) for run in shown
    }


def test_a_pushed_notification_starts_the_watch_at_once(stack: Stack) -> None:
    """The call that docs/stack.md gives for notifications of S3."""
    chosen = {
        "flows": {"name": {"any_": ["watch"]}},
        "flow_runs": {"state": {"name": {"not_any_": ["Scheduled"]}}},
    }
    before = ask(f"{stack.api}/flow_runs/count", chosen)
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "esmerge.finetune.landed",
        "resource": {"prefect.resource.id": "esmerge.finetune.cars"},
    }
    ask(f"{stack.api}/events", [event])
    wait_for(lambda: ask(f"{stack.api}/flow_runs/count", chosen) > before, 90)


def credentials(stack: Stack) -> list[str]:
    (identity,) = json.loads((stack.layout.state / "s3.json").read_text())["identities"]
    return [str(identity["credentials"][0]["secretKey"])]


def test_the_demo_without_a_stack_says_what_to_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments.stack_demo", "--state", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("esmerge stack-demo: ")
    assert "make stack" in done.stderr
