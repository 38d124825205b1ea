"""The parts of the stack that start nothing: ports, the environment file, what is registered."""

import os
import socket
import stat
import time
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import notify, register
from deployments.notify import LANDED, announce
from deployments.stack.environment import (
    inherited,
    read_environment,
    s3_identity,
    stack_environment,
    write_environment,
)
from deployments.stack.layout import PORTS, Layout, check_ports
from deployments.stack_demo.reuse import check_reuse
from esm_core.errors import EsmergeError, InputError

FOLDER = Path(register.__file__).parent


def test_every_port_follows_the_base(tmp_path: Path) -> None:
    layout = Layout(tmp_path, base=20000)
    assert [layout.port(name) for name in PORTS] == list(range(20000, 20000 + len(PORTS)))
    assert layout.url("prefect") == "http://127.0.0.1:20000"


@pytest.mark.parametrize(
    ("host", "base", "complaint"),
    [
        ("0.0.0.0", 20000, "nobody can connect to"),  # noqa: S104
        ("localhost", 20000, "give an IPv4 address"),
        ("127.0.0.1", 65530, "ESMERGE_STACK_PORT_BASE is 65530"),
        ("127.0.0.1", 80, "ESMERGE_STACK_PORT_BASE is 80"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, host: str, base: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Layout(tmp_path, host, base)


def test_a_port_that_is_taken_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"{port} \(for s3\).*ESMERGE_STACK_PORT_BASE"):
            check_ports(Layout(tmp_path, base=port - PORTS.index("s3")))


def test_the_environment_file_is_private_and_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "env"
    values = {"PLAIN": "a", "AWKWARD": 'it\'s $HOME; `x` = "y" # z'}
    write_environment(path, values)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_environment(path) == values


def test_without_a_stack_the_message_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make stack"):
        read_environment(tmp_path / "env")


def test_credentials_are_made_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = s3_identity(layout)
    assert s3_identity(layout) == first
    assert stat.S_IMODE((tmp_path / "s3.json").stat().st_mode) == 0o600


def test_nothing_of_the_callers_accounts_reaches_the_parts() -> None:
    given = {"AWS_PROFILE": "mine", "PREFECT_API_URL": "http://elsewhere", "DASK_X": "1", "HOME": "/home/me"}
    assert set(inherited(given)) == {"HOME", "PYTHONPATH"}


def test_the_recipe_that_the_schedules_look_at_can_be_chosen(tmp_path: Path) -> None:
    assert stack_environment(Layout(tmp_path), {})["ESMERGE_RECIPE"] == "s3://esmerge/recipe.yaml"
    chosen = stack_environment(Layout(tmp_path), {"ESMERGE_RECIPE": "s3://other/r.yaml"})
    assert chosen["ESMERGE_RECIPE"] == "s3://other/r.yaml"


def test_deployments_need_their_variables() -> None:
    with pytest.raises(InputError, match="ESMERGE_RECIPE, ESMERGE_STORE"):
        register.deploy_environment({"PREFECT_API_URL": "http://127.0.0.1:9/api"})


def test_every_deployment_runs_one_at_a_time_and_is_watched_over() -> None:
    content = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
    assert [d["name"] for d in content["deployments"]] == ["merge", "watch", "clean"]
    lost, unstarted = (automation["trigger"] for automation in register.load_automations())
    for deployment in content["deployments"]:
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        for trigger in (lost, unstarted):
            assert trigger["match_related"]["prefect.resource.id"] == "prefect.tag.esmerge"
        assert "esmerge" in deployment["tags"]
        beat = deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert 2 * int(beat) < lost["within"], "one heartbeat may be late"
    watch = content["deployments"][1]
    assert watch["triggers"][0]["expect"] == [LANDED]


def test_no_credential_is_named_in_what_prefect_keeps() -> None:
    text = (FOLDER / "prefect.yaml").read_text()
    for line in text.splitlines():
        assert line.lstrip().startswith("#") or "AWS_" not in line


def test_a_landing_without_a_server_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    assert "PREFECT_API_URL is not set" in announce("cars", "v000001", "s3://bucket/cars/v000001")
    assert "PREFECT_API_URL" not in os.environ


def test_a_landing_is_not_held_up_by_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        started = time.monotonic()
        with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
            told = announce("cars", "v000001", "s3://bucket/cars/v000001")
    assert "was not told (ReadTimeout)" in told
    assert time.monotonic() - started < 10


def manifest(**shifts: str) -> dict[str, object]:
    return {"inputs": {"tasks": {name: {"proxies": {"shifts": key}} for name, key in shifts.items()}}}


def test_a_version_that_reused_everything_old_passes() -> None:
    lines = ["reused the activation shifts of a", "collected the activation shifts of b (1.0 s, 2 MB)"]
    assert check_reuse(manifest(a="1"), manifest(a="1", b="2"), lines).startswith("collected b; reused")


REUSED_A, COLLECTED_A = "reused the activation shifts of a", "collected the activation shifts of a"
COLLECTED_B = "collected the activation shifts of b"


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (manifest(a="1", b="2"), [COLLECTED_A, COLLECTED_B]),
        (manifest(a="9", b="2"), [REUSED_A, COLLECTED_B]),
        (manifest(a="1", b="2"), [COLLECTED_B]),
    ],
)
def test_a_version_that_collected_again_does_not(after: dict[str, object], lines: list[str]) -> None:
    with pytest.raises(EsmergeError, match="Only b should have been collected"):
        check_reuse(manifest(a="1"), after, lines)
