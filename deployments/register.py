"""Registering the work pool, the deployments and the automations: ``python -m deployments.register``.

It talks to the server that ``PREFECT_API_URL`` names and can be repeated: what is there is replaced.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from esm_core.errors import EsmergeError, InputError

FOLDER = Path(__file__).parent
POOL = "esmerge"


def load_automations(path: Path = FOLDER / "automations.yaml") -> list[dict[str, Any]]:
    """The automations of a file in the form that ``prefect automation create`` reads."""
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["automations"]
    return found


def deploy_environment(given: dict[str, str]) -> dict[str, str]:
    """The environment in which ``prefect.yaml`` is read.

    Raises
    ------
    InputError
        A variable that the deployments need is not set.
    """
    missing = [name for name in ("PREFECT_API_URL", "ESMERGE_RECIPE", "ESMERGE_STORE") if not given.get(name)]
    if missing:
        raise InputError(f"Set {', '.join(missing)} first; deployments/prefect.yaml says what they are.")
    return {"ESMERGE_ACTIVE": "true", **given}


def register_pool() -> None:
    """Make the work pool of kind ``process`` where there is none; one of another kind is left as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            from prefect.workers.process import ProcessWorker

            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def register_automations(automations: list[dict[str, Any]]) -> None:
    """Create automations in place of those of the same name."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for automation in automations:
            for old in client.read_automations_by_name(automation["name"]):
                client.delete_automation(old.id)
            client.create_automation(AutomationCore.model_validate(automation))


def end_lost_runs() -> int:
    """Mark every unfinished run that was started as crashed: for a server whose workers are all stopped.

    Returns
    -------
    int
        How many there were.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    started = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=started)))
    ended = 0
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.ID_DESC, limit=200):
            for run in runs:
                client.set_flow_run_state(run.id, Crashed(message="The platform was stopped."), force=True)
            ended += len(runs)
    return ended


def main() -> int:
    """Register everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.register", description=__doc__)
    parser.add_argument(
        "--end-lost-runs", action="store_true", help="mark started runs as crashed: no worker runs"
    )
    arguments = parser.parse_args()
    try:
        environment = deploy_environment(dict(os.environ))
    except EsmergeError as error:
        sys.stderr.write(f"esmerge: {error}\n")
        return error.exit_code
    if arguments.end_lost_runs:
        print(f"{end_lost_runs()} runs marked as crashed")
    register_pool()
    register_automations(load_automations())
    file = str(FOLDER / "prefect.yaml")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file]
    return subprocess.run(command, env=environment, cwd=FOLDER.parent, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
