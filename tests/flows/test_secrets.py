"""Planted credentials are nowhere in what a merge leaves or says, in the most verbose settings."""

import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from s3_proxy import Faults, FaultyProxy
from services import ACCESS_KEY, SECRET_KEY, S3Server, dask_cluster, free_ports
from world import World

pytestmark = [pytest.mark.s3, pytest.mark.server, pytest.mark.dask, pytest.mark.fault, pytest.mark.slow]

PASSWORD = "admin:planted-auth-string-51d2"  # noqa: S105  of a server that lives for one test
TOKEN = "planted/session+token=e07b"  # noqa: S105
URL_SECRET = "planted-url-secret/9c44"  # noqa: S105
URL_KEY = "AKIAPLANTEDPLANTED77"
CANARIES = (ACCESS_KEY, SECRET_KEY, PASSWORD, TOKEN, URL_SECRET, URL_KEY)
ROOT = Path(__file__).parents[2]


def forms(secret: str) -> list[bytes]:
    """What a secret can look like where it leaks."""
    encoded = [base64.b64encode(secret.encode()), base64.urlsafe_b64encode(secret.encode())]
    return [secret.encode(), urllib.parse.quote(secret, safe="").encode(), *(e.rstrip(b"=") for e in encoded)]


def leaks(data: bytes) -> list[str]:
    return [secret for secret in CANARIES if any(form in data for form in forms(secret))]


def surroundings(data: bytes) -> list[bytes]:
    """Where secrets are told, for the message of a test that fails."""
    found = [data.find(form) for secret in CANARIES for form in forms(secret)]
    return [data[max(0, place - 300) : place + 100] for place in found if place >= 0]


def verbose(**changes: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "esm_core,esmerge,s3fs,fsspec,botocore,aiobotocore,zarr",
        **changes,
    }


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Prefect server that asks for the auth string: its API URL and its PREFECT_HOME."""
    home = tmp_path_factory.mktemp("guarded")
    (port,) = free_ports(1)
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_PORT": str(port),
    }
    with (home / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + 90
        while status(f"{url}/health") is None:
            assert time.monotonic() < deadline, (home / "server.log").read_text()[-2000:]
            assert process.poll() is None, (home / "server.log").read_text()[-2000:]
            time.sleep(0.3)
        yield url, home
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def status(url: str, auth: str | None = None, body: bytes | None = None) -> int | None:
    """The status of a GET, or of a POST of ``body``; None where nobody answers."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    if auth is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def test_the_server_refuses_calls_without_the_auth_string(guarded_server: tuple[str, Path]) -> None:
    url, _ = guarded_server
    limit = b'{"limit": 1}'
    calls = {
        "admin/version": None,
        "flow_runs/filter": limit,
        "deployments/filter": limit,
        "logs/filter": limit,
    }
    for call, body in calls.items():
        assert status(f"{url}/{call}", None, body) == 401, call
        assert status(f"{url}/{call}", "admin:wrong", body) == 401, call
        assert status(f"{url}/{call}", PASSWORD, body) == 200, call
    for call in (
        "flows/",
        "deployments/",
        "flow_runs/",
        "events",
        "automations/",
        "variables/",
        "admin/database/clear",
    ):
        assert status(f"{url}/{call}", None, b"{}") == 401, call


def test_no_planted_credential_is_left_anywhere(
    world: World, s3: S3Server, faulty_s3: FaultyProxy, guarded_server: tuple[str, Path], tmp_path: Path
) -> None:
    url, home = guarded_server
    bucket = s3.bucket()
    for path in sorted(world.root.rglob("*")):
        if path.is_file():
            (bucket / str(path.relative_to(world.root))).write_bytes(path.read_bytes())
    recipe = bucket / "recipe.yaml"
    recipe.write_bytes(yaml.safe_dump(world.recipe).encode())
    with_url = tmp_path / "with-url.yaml"
    with_url.write_text(yaml.safe_dump({**world.recipe, "store": f"s3://{URL_KEY}:{URL_SECRET}@bucket/x"}))
    client_home = tmp_path / "client-home"
    common = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": PASSWORD, "PREFECT_HOME": str(client_home)}
    said: dict[str, bytes] = {}

    def run(name: str, code: int, recipe: object, **changes: str) -> None:
        command = [sys.executable, "-m", "esmerge", "merge", str(recipe), "--workers", "2"]
        outcome = subprocess.run(
            command, env=verbose(**(common | changes)), cwd=tmp_path, capture_output=True, check=False
        )
        said[name] = outcome.stdout + outcome.stderr
        print(f"{name}: {len(said[name])} bytes, exit {outcome.returncode}", flush=True)
        assert outcome.returncode == code, outcome.stderr.decode()[-3000:]

    run("refused", 1, recipe, PREFECT_API_AUTH_STRING="admin:wrong")
    faulty_s3.faults = Faults(error_500=0.02, reset_after=0.01)
    run("merge", 0, recipe)
    echo = f" You sent {ACCESS_KEY} with {TOKEN}."
    faulty_s3.faults = Faults(refused=("*",), refusal="InvalidAccessKeyId", refusal_extra=echo)
    run("unknown key", 2, recipe)
    faulty_s3.faults = Faults(refused=("*",), refusal="ExpiredToken", refusal_extra=echo)
    run("expired", 2, recipe, AWS_SESSION_TOKEN=TOKEN)
    faulty_s3.faults = Faults(refused=("PutObject",), refusal_extra=echo)
    run("forbidden", 2, recipe)
    faulty_s3.faults = Faults()
    run("credentials in a URL", 2, with_url)
    run("credentials in the recipe's URL", 2, f"s3://{URL_KEY}:{URL_SECRET}@bucket/recipe.yaml")
    cluster_folder = tmp_path / "dask"
    cluster_folder.mkdir()
    world.recipe |= {"alpha": 1.0, "store": f"{bucket}/store"}
    on_dask = bucket / "on-dask.yaml"
    on_dask.write_bytes(yaml.safe_dump(world.recipe).encode())
    # Settings travel to the workers with the tasks, the auth string among them.
    with dask_cluster(cluster_folder, ["GPU=1", ""]) as cluster:
        faulty_s3.faults = Faults(error_500=0.02, reset_after=0.01)
        run("on Dask", 0, on_dask, ESMERGE_DASK_ADDRESS=cluster.address)
        faulty_s3.faults = Faults()
        said["Dask"] = cluster.logs().encode()
    assert b"Task run 'collect-cats'" in said["Dask"]

    for name, text in said.items():
        assert len(text) > 50
        assert not leaks(text), f"{name}: {surroundings(text)}"
    objects = bucket.files()
    assert any(name.endswith("manifest.json") for name in objects)
    assert not {name: found for name in objects if (found := leaks((bucket / name).read_bytes()))}
    files = [
        path for folder in (home, client_home, cluster_folder) for path in folder.rglob("*") if path.is_file()
    ]
    assert any(path.name == "prefect.db" for path in files)
    assert not {str(path): found for path in files if (found := leaks(path.read_bytes()))}
