"""Whether the Prefect server and the Dask cluster that the environment names can be used."""

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from esm_core.doctor.check import Check

_SECONDS = 5.0
_COMPARED = ("esmerge", "torch", "prefect", "distributed", "numpy", "zarr")
"""What a task needs in the same version on both sides."""


def check_prefect() -> Check:
    """The server that ``PREFECT_API_URL`` or a Prefect profile names answers, and to this user.

    Without one a merge starts an ephemeral server of its own.
    """
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    if not os.environ.get("PREFECT_API_URL") and not (home / "profiles.toml").exists():
        return _EPHEMERAL
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    return _ask_prefect(str(url)) if url else _EPHEMERAL


_EPHEMERAL = Check(
    "prefect",
    "ok",
    "ephemeral: PREFECT_API_URL is not set, so each merge starts a server of its own and ends it",
)


def _ask_prefect(url: str) -> Check:
    import httpx
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    shown = _without_credentials(url)
    impatient = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _SECONDS})
    try:
        with impatient, get_client(sync_client=True) as client:
            there = str(client.request("GET", "/admin/version").json())
    except httpx.HTTPStatusError as error:
        return _refused(shown, error.response.status_code)
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError, OSError) as error:
        do = "Start the server, or correct PREFECT_API_URL (it ends in /api), or unset it to run without one."
        return Check("prefect", "fail", f"{shown} does not answer as a Prefect server ({_kind(error)})", do)
    if _minor(there) != _minor(prefect.__version__):
        do = "Install the same version on both sides, with constraints.txt."
        return Check("prefect", "warn", f"{shown} runs Prefect {there}, this is {prefect.__version__}", do)
    return Check("prefect", "ok", f"{shown} answers, Prefect {there}")


def _refused(shown: str, status: int) -> Check:
    if status in (401, 403):
        do = "Set PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to what the server was started with."
        return Check("prefect", "fail", f"{shown} refuses this user ({status})", do)
    do = "Is PREFECT_API_URL that of a Prefect server? It ends in /api. Its log says more."
    return Check("prefect", "fail", f"{shown} answered {status}", do)


def uses_dask() -> bool:
    """Whether merges run on Dask, as :mod:`flows.runner` decides it."""
    return _runner() == "dask"


def _runner() -> str:
    address = os.environ.get("ESMERGE_DASK_ADDRESS", "")
    return os.environ.get("ESMERGE_RUNNER") or ("dask" if address else "threads")


def check_dask(needs_gpu: bool = False) -> Check | None:
    """The scheduler of ``ESMERGE_DASK_ADDRESS`` answers, has workers, and all are of the same versions.

    Parameters
    ----------
    needs_gpu : bool
        A recipe asks for a CUDA device, so a worker must offer ``GPU``.

    Returns
    -------
    Check or None
        None where merges do not run on Dask.
    """
    address, kind = os.environ.get("ESMERGE_DASK_ADDRESS", ""), _runner()
    if kind not in ("threads", "dask"):
        do = "Set it to threads or dask, or unset it."
        return Check("dask", "fail", f"ESMERGE_RUNNER is {kind!r}", do)
    if kind == "threads":
        return None
    if not address:
        do = "Set ESMERGE_DASK_ADDRESS, such as tcp://scheduler:8786, or unset ESMERGE_RUNNER."
        return Check("dask", "fail", "ESMERGE_RUNNER is dask, but ESMERGE_DASK_ADDRESS is not set", do)
    try:
        from distributed import Client
    except ImportError:
        return Check("dask", "fail", "distributed is not installed", "pip install 'esmerge[dask]'")
    # Its tries to connect are not news to whoever gets the answer.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        with Client(address, timeout=_SECONDS, set_as_default=False) as client:
            return _judged(address, client, needs_gpu)
    except (OSError, ValueError) as error:
        do = "Start one with `dask scheduler`, correct ESMERGE_DASK_ADDRESS, or unset it to run without."
        return Check("dask", "fail", f"no scheduler answers at {address} ({_kind(error)})", do)


def _judged(address: str, client: Any, needs_gpu: bool) -> Check:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        do = f"Start one with `dask worker {address} --nthreads 1`, where esmerge is installed."
        return Check("dask", "fail", f"{address} has no worker", do)
    gpus = sum(bool(facts.get("resources", {}).get("GPU")) for facts in workers.values())
    found = f"{address}: {len(workers)} workers, {gpus} of them with a GPU"
    if different := _different(client):
        do = "Restart the scheduler and all workers with the versions of this installation."
        return Check("dask", "fail", f"{found}; other versions than here: {different}", do)
    if needs_gpu and not gpus:
        do = f"Start one with `dask worker {address} --nthreads 1 --resources GPU=1`, or set device: cpu."
        return Check("dask", "fail", f"{found}; the recipe asks for cuda", do)
    return Check("dask", "ok", f"{found}; versions equal")


def _different(client: Any) -> str:
    """Packages that are there in another version than here, and which."""
    here = {name: _version(name) for name in _COMPARED}
    found: dict[str, set[str]] = {}
    for name in _COMPARED:
        for there in client.run(version, name, on_error="return").values():
            if str(there) != here[name] and not (isinstance(there, Exception) and here[name] == _MISSING):
                found.setdefault(name, set()).add(_MISSING if isinstance(there, Exception) else str(there))
    return ", ".join(
        f"{name} {' and '.join(sorted(all_))} (here {here[name]})" for name, all_ in found.items()
    )


_MISSING = "missing"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _MISSING


def _minor(text: str) -> list[str]:
    return text.split(".")[:2]


def _kind(error: Exception) -> str:
    return type(error).__name__


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
