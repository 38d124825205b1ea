"""Running the flow in this process: the environment it sets, a server that is not there, one just started."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from world import World

from deployments.local import Run, configure_environment


def _huge_pages() -> str:
    """The setting in force on this machine; never where there is no such thing."""
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return file.read_text().split("[")[1].split("]")[0] if file.exists() else "never"


@pytest.fixture(autouse=True)
def _environment_is_restored() -> Iterator[None]:
    with patch.dict(os.environ):
        yield


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    configure_environment()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".cache" / "esmerge" / "prefect")


def test_a_prefect_profile_of_the_user_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").write_text("")
    configure_environment()
    assert "PREFECT_HOME" not in os.environ


@pytest.mark.skipif(_huge_pages() == "never", reason="this Linux has no huge pages")
def test_large_tensors_of_a_merge_lie_in_huge_pages() -> None:
    lines = [
        "from deployments.local import configure_environment",
        "configure_environment()",
        "import torch",
        "tensor = torch.ones(2**24)",
        "print(next(line.split()[1] for line in open('/proc/self/smaps_rollup') if 'AnonHuge' in line))",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) > 2**24 * 4 / 1024 / 2


def test_a_prefect_server_that_is_not_there_is_one_message(world: World) -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "esmerge", "merge", str(world.recipe_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 1
    assert run.stderr.startswith("esmerge: Prefect could not run the merge")
    assert "PREFECT_API_URL" in run.stderr
    assert "Traceback" not in run.stderr


def test_abandoning_a_run_stops_a_server_that_is_still_being_started() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.running = True
    started = []

    def start() -> None:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        server.server_process = started[0]

    later = threading.Timer(0.5, start)
    later.start()
    Run().abandon()
    later.join()
    try:
        assert started[0].poll() is not None
    finally:
        started[0].kill()
        started[0].wait()
