"""What a run leaves in the Prefect UI and in the manifest."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from services import Command
from world import World

from flows.merge import merge
from flows.show import artifact_key, show_page
from tasks.options import log_name

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def newest_run(client: SyncPrefectClient, recipe: Path) -> FlowRun:
    runs = client.read_flow_runs(limit=200, sort=FlowRunSort.START_TIME_DESC)
    return next(run for run in runs if run.parameters.get("recipe") == str(recipe))


def artifacts_of_newest_run(recipe: Path) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        newest = newest_run(client, recipe)
        assert newest.name == "merge-pets"
        of_run = {"artifacts": {"flow_run_id": {"any_": [str(newest.id)]}}}
        found = httpx.post(f"{client.api_url}artifacts/filter", json=of_run).raise_for_status().json()
        return {artifact["key"]: artifact for artifact in found}


def test_a_run_shows_its_plan_its_progress_and_its_result(
    world: World, esmerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.show.LONG", 0.0)
    recipe = world.recipe_path
    assert esmerge("merge", recipe).code == 0
    found = artifacts_of_newest_run(recipe)
    assert "| cats | `file://" in str(found["pets-plan"]["data"])
    assert "to be collected" in str(found["pets-plan"]["data"])
    assert found["pets-collecting"]["data"] == 100.0
    assert found["pets-merging"]["description"] == "merging: 10 of 10"
    table = json.loads(str(found["pets-accuracy"]["data"]))
    assert {row["task"] for row in table} == {"cats", "dogs", "maps", "mean", "normalised"}
    assert f"{world.store}/artifacts/pets/v000001" in str(found["pets-version"]["data"])
    assert f"{world.store}/artifacts/pets/v000001/report.html" in str(found["pets-report"]["data"])


@pytest.fixture
def login_page() -> Iterator[str]:
    """URL of what a proxy may put before a server: every request is answered, with a page for people."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Sign in</html>")

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:.*outside of a flow or task run:FutureWarning")
def test_a_page_that_cannot_be_shown_costs_a_line(login_page: str, caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: login_page}), caplog.at_level("WARNING", log_name):
        show_page("pets", "plan", "What will be done.")
    assert [record.message for record in caplog.records if record.name == log_name] == [
        "the Prefect UI could not be updated (JSONDecodeError)"
    ]


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(world: World) -> None:
    recipe = world.recipe_path
    assert merge(str(recipe), dry_run=True) == ""
    page = str(artifacts_of_newest_run(recipe)["pets-dry-run"]["data"])
    assert "nothing was done" in page
    assert "| maps |" in page
    assert not (world.root / "store").exists()


def test_the_form_overrides_the_recipe(world: World) -> None:
    recipe = world.recipe_path
    merge(str(recipe), alpha="1.5", rank=3, experts="on")
    manifest = json.loads((world.root / "store/artifacts/pets/v000001/manifest.json").read_text())
    assert manifest["alpha"] == 1.5
    assert manifest["recipe"]["experts"]["rank"] == 3


def test_the_manifest_says_what_each_stage_took(world: World, esmerge: Command) -> None:
    world.recipe["alpha"] = "label_free"
    assert esmerge("merge", world.recipe_path).code == 0
    world.recipe["experts"] = {"rank": 3, "extras": False, "layers": ["attn.in_proj", "mlp.c_fc"]}
    assert esmerge("merge", world.recipe_path).code == 0
    shown = json.loads(esmerge("show", "--store", world.store, "pets", "--json").out)
    stages = {stage["name"]: stage for stage in shown["run"]["stages"]}
    assert stages["collecting"]["parts"] == stages["collecting"]["reused"] == 3
    shifts = sum(path.stat().st_size for path in world.root.glob("store/shifts/**/*") if path.is_file())
    assert stages["collecting"]["bytes"] == shifts
    assert stages["making experts"]["reused"] < stages["making experts"]["parts"]
    assert all(stage["seconds"] >= 0 for stage in stages.values())


def test_keys_are_what_prefect_allows() -> None:
    assert artifact_key("My_Pets.v2", "making experts") == "my-pets-v2-making-experts"
