"""Telling the platform that something happened, so that it looks at once."""

import os

LANDED = "esmerge.finetune.landed"
"""The event that starts the deployment ``watch``."""

_SECONDS = 10.0


def announce(task: str, version: str, url: str) -> str:
    """Tell the Prefect server that a fine-tune has landed. Nothing that goes wrong here is raised.

    Parameters
    ----------
    task, version : str
        What landed.
    url : str
        Folder of the version in the registry.

    Returns
    -------
    str
        What was done, for people. The schedule finds the fine-tune in any case.
    """
    server = os.environ.get("PREFECT_API_URL")
    if not server:
        return "PREFECT_API_URL is not set: nobody is told; the schedule finds it"
    try:
        _send(task, version, url)
    except Exception as error:  # whatever it is, the fine-tune has landed
        return f"{server} was not told ({type(error).__name__}); the schedule finds it"
    return f"told {server}: the platform looks at the registry now"


def _send(task: str, version: str, url: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    resource = {"prefect.resource.id": f"esmerge.finetune.{task}.{version}", "prefect.resource.name": task}
    event = Event(
        event=LANDED,
        resource=Resource.model_validate(resource),
        payload={"task": task, "version": version, "url": url},
    )
    # Not emit_event: it sends from a background thread, and nobody learns whether that went well.
    impatient = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _SECONDS})
    with impatient, get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
