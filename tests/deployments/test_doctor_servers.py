"""The Prefect server and the Dask cluster that the environment names: there, refused, or not there."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from services import DaskCluster, dask_cluster

from deployments.doctor import check_dask, check_prefect


class Guarded(BaseHTTPRequestHandler):
    """The version of a Prefect server that asks for the auth string ``admin:hunter2``."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        allowed = given == "Basic " + base64.b64encode(b"admin:hunter2").decode()
        body = json.dumps("3.0.1" if allowed else {"exception_message": "Unauthorized"}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.server
def test_a_prefect_server_answers(prefect_server: str) -> None:
    check = check_prefect()
    assert (check.status, check.found.startswith(f"{prefect_server} answers, Prefect 3.")) == ("ok", True)


def test_a_prefect_server_that_is_not_there() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        check = check_prefect()
    assert check.status == "fail"
    assert "http://127.0.0.1:9/api does not answer as a Prefect server" in check.found
    assert "PREFECT_API_URL" in check.do


def test_a_prefect_server_that_refuses_this_user(guarded: str) -> None:
    with temporary_settings({PREFECT_API_URL: guarded.replace("//", "//u:hunter2@")}):
        refused = check_prefect()
    assert (refused.status, "refuses this user (401)" in refused.found) == ("fail", True)
    assert "PREFECT_API_AUTH_STRING" in refused.do
    with temporary_settings({PREFECT_API_URL: guarded, PREFECT_API_AUTH_STRING: "admin:hunter2"}):
        older = check_prefect()
    assert (older.status, "runs Prefect 3.0.1" in older.found) == ("warn", True)
    assert "hunter2" not in refused.found + older.found


def test_without_a_server_each_merge_brings_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert check_prefect().found.startswith("ephemeral")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), ["GPU=1", ""]) as found:
        yield found


@pytest.mark.dask
def test_a_dask_cluster_answers_with_its_workers(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)
    check = check_dask(needs_gpu=True)
    assert check is not None
    assert check.found == f"{cluster.address}: 2 workers, 1 of them with a GPU; versions equal"
    assert check.status == "ok"
    monkeypatch.setattr("deployments.doctor._version", lambda name: "1.0")
    other = check_dask()
    assert other is not None
    assert (other.status, "numpy 2" in other.found, "(here 1.0)" in other.found) == ("fail", True, True)


@pytest.mark.dask
def test_a_dask_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.doctor._SECONDS", 1.0)
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", "tcp://127.0.0.1:9")
    check = check_dask()
    assert check is not None
    assert (check.status, "no scheduler answers at tcp://127.0.0.1:9" in check.found) == ("fail", True)


def test_dask_is_looked_at_where_it_is_asked_for_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESMERGE_DASK_ADDRESS", raising=False)
    monkeypatch.delenv("ESMERGE_RUNNER", raising=False)
    assert check_dask() is None
    for runner, said in (("dask", "ESMERGE_DASK_ADDRESS is not set"), ("ray", "ESMERGE_RUNNER is 'ray'")):
        monkeypatch.setenv("ESMERGE_RUNNER", runner)
        check = check_dask()
        assert check is not None
        assert (check.status, said in check.found) == ("fail", True)
