"""The tasks of the watch: look whether inputs changed, and start a merge of them once."""

import logging
from collections.abc import Sequence
from typing import Literal

from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from esm_core.errors import EsmergeError, InputError
from esm_core.watch import Sight, look
from tasks.options import OPTIONS, log_name

log = logging.getLogger(log_name)

ATTEMPTS = 3
"""How often a merge of the same inputs is started before a person has to look."""

Decision = Literal["start", "under way", "given up"]


@task(name="look", **OPTIONS)
def look_at(recipe: str) -> Sight | None:
    """What a merge of the recipe would read, beside what the newest version was made from."""
    sight = look(recipe)
    if sight is None:
        log.info("the registry holds fewer than two fine-tunes: there is nothing to merge yet")
        return None
    for change in sight.changes:
        log.info("%s: %s", sight.name, change)
    if sight.current:
        log.info("%s: nothing changed since %s", sight.name, sight.current)
    return sight


@task(name="start-merge", **OPTIONS)
def start_merge(deployment: str, recipe: str, name: str, inputs: str) -> str:
    """Start the merge deployment, once for one set of inputs.

    A run that failed or crashed is followed by another one, but there are three at most: then
    a person has to look, and nothing is started until the inputs change or somebody presses Run.

    Parameters
    ----------
    deployment : str
        ``flow/deployment``, such as ``merge/merge``.
    recipe : str
        URL of the recipe.
    name : str
        Of the artifact.
    inputs : str
        Digest of the inputs; runs carry it as a tag.

    Returns
    -------
    str
        What was decided, for people.

    Raises
    ------
    InputError
        There is no such deployment.
    EsmergeError
        Merges of these inputs failed three times.
    """
    tag = f"inputs:{inputs[:16]}"
    with get_client(sync_client=True) as client:
        # The server refuses this request without a limit and an order, which the client leaves out.
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])),
            limit=100,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
    decision = decide([run.state_type for run in runs])
    if decision == "under way":
        return _said("a merge of these inputs is under way or queued")
    if decision == "given up":
        names = ", ".join(run.name for run in runs)
        raise EsmergeError(
            f"Merges of these inputs failed {ATTEMPTS} times ({names}); none is started any more. Their "
            "logs say why. Land a better fine-tune, change the recipe, or press Run on the merge deployment."
        )
    try:
        # The key lets one of two watches that look at the same moment win.
        run = run_deployment(
            deployment,
            parameters={"recipe": recipe},
            flow_run_name=f"merge-{name}",
            tags=[tag],
            timeout=0,
            as_subflow=False,
            idempotency_key=f"{tag}:{len(runs)}",
        )
    except ObjectNotFound as error:
        raise InputError(
            f"There is no deployment {deployment} on this Prefect server. Register the deployments with: "
            "python -m deployments.register"
        ) from error
    assert isinstance(run, FlowRun)
    return _said(f"started {run.name}")


def _said(outcome: str) -> str:
    log.info(outcome)
    return outcome


def decide(states: Sequence[StateType | None]) -> Decision:
    """What to do about inputs that were seen to differ, from the states of the merges of them so far."""
    ended = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
    if any(state not in ended for state in states):
        return "under way"
    failed = sum(state in (StateType.FAILED, StateType.CRASHED) for state in states)
    return "given up" if failed >= ATTEMPTS else "start"
