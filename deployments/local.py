"""Running the merge flow in this process, on this machine's cores."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer


def configure_environment() -> None:
    """Set what Prefect and the thread pools read when they are first imported.

    Whatever the user has set stays. Prefect's files go to a folder of esmerge's own unless a Prefect
    profile or server is configured; its console is quiet, since the command reports progress itself.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    threads = os.environ.get("ESMERGE_THREADS", "1")
    defaults = {
        "OMP_NUM_THREADS": threads if threads.isdigit() else "1",
        "THP_MEM_ALLOC_ENABLE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "esm_core,esmerge",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_ROOT_LEVEL": "INFO",
    }
    # At DEBUG these write whole headers, and so the auth string of the Prefect server, wherever DEBUG goes.
    for name in ("websockets", "hpack"):
        logging.getLogger(name).setLevel(logging.INFO)
    own_profile = Path.home() / ".prefect" / "profiles.toml"
    configured = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE"} & set(os.environ)
    if not configured and not own_profile.exists():
        defaults["PREFECT_HOME"] = str(cache / "esmerge" / "prefect")
        (cache / "esmerge").mkdir(parents=True, exist_ok=True)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


class Run:
    """A run of the merge flow in this process, which can be abandoned from another thread."""

    def __init__(self) -> None:
        self._id: UUID | None = None

    def merge(self, recipe: str, workers: int) -> str:
        """Run the flow where the environment says, with ``workers`` threads if here.

        Returns
        -------
        str
            The version's URL.

        Raises
        ------
        EsmergeError
            What the flow raised, or that Prefect could not run it.
        """
        configure_environment()
        from esm_core.environment import threads_per_task
        from esm_core.errors import EsmergeError

        threads_per_task()  # else every task would say what is wrong with it
        from flows.merge import merge
        from flows.runner import task_runner

        runner: Any = task_runner(workers)
        try:
            url: str = merge.with_options(task_runner=runner, on_running=[self._note])(recipe)
        except EsmergeError:
            raise
        except Exception as error:
            unreachable = isinstance(error, RuntimeError) and "API" in str(error)
            if not unreachable and type(error).__module__.split(".")[0] not in ("httpx", "prefect"):
                raise
            raise EsmergeError(
                f"Prefect could not run the merge ({type(error).__name__}: {error}). Start the server that "
                "PREFECT_API_URL names, or unset it to run without one. What was finished is kept."
            ) from error
        return url

    def abandon(self) -> None:
        """Tell the server that this run ends here, or stop the server that was started for it alone."""
        started = sys.modules.get("prefect.server.api.server")
        server = started.SubprocessASGIServer() if started else None
        if server is not None and server.running:
            _wait_for_process(server)
            server.stop()
        elif self._id is not None:
            end_run(self._id, "Interrupted by Ctrl-C; what is finished is kept.")

    def _note(self, flow: Any, flow_run: Any, state: Any) -> None:
        self._id = flow_run.id


def _wait_for_process(server: "SubprocessASGIServer") -> None:
    """Wait until there is a process to stop: Prefect says that its server runs before it has started it."""
    deadline = time.monotonic() + 5
    while server.running and server.server_process is None and time.monotonic() < deadline:
        time.sleep(0.01)


def end_run(run: UUID, message: str) -> None:
    """Mark an unfinished run as crashed, so that it holds no slot; the server is asked once."""
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )
    from prefect.states import Crashed

    impatient = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 3.0})
    with impatient, get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Crashed(message=message), force=True)


def run_merge(recipe: str, workers: int) -> str:
    """:meth:`Run.merge` of a run that nobody abandons."""
    return Run().merge(recipe, workers)
