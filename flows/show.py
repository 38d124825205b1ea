"""What a run shows in the Prefect UI: artifacts with the plan, progress, accuracy and where the version is.

Showing is best effort: a server that is away for a moment costs a line in the log, never a merge.
"""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from uuid import UUID

from prefect import runtime
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client

from esm_core.artifacts import Version
from esm_core.model_card import accuracy_rows
from esm_core.report import REPORT_NAME
from tasks.options import log_name

log = logging.getLogger(log_name)

LONG = 2.0
"""Seconds. Each call of the server takes some time, which short stages had better not spend."""


def name_run(name: str) -> None:
    """Give this flow run a name that says what it makes."""
    with _best_effort(), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(str(runtime.flow_run.id)), name=name)


def show_page(name: str, kind: str, page: str) -> None:
    """Show a Markdown page, such as the plan of a merge."""
    with _best_effort():
        create_markdown_artifact(page, key=artifact_key(name, kind), description=f"{kind} of {name}")


def show_version(name: str, version: Version) -> None:
    """Show a version: the accuracy table, and where its files and its report are."""
    header, rows = accuracy_rows(version.manifest["metrics"]["accuracy"])
    title = f"{name} {version.label}"
    with _best_effort():
        if rows:
            table = [dict(zip(header, row, strict=True)) for row in rows]
            description = f"Accuracy of {title} on the test images, %"
            create_table_artifact(table, key=artifact_key(name, "accuracy"), description=description)
        create_link_artifact(
            version.folder.url, title, key=artifact_key(name, "version"), description=f"Files of {title}"
        )
        if REPORT_NAME in version.manifest["files"]:
            report, key = (version.folder / REPORT_NAME).url, artifact_key(name, "report")
            create_link_artifact(report, f"report of {title}", key=key, description=f"Report of {title}")


class Progress:
    """A progress bar in the UI for a stage of several parts, once it has taken :data:`LONG` seconds.

    Parameters
    ----------
    name : str
        Name of the artifact that is made.
    stage : str
    parts : int
    """

    def __init__(self, name: str, stage: str, parts: int) -> None:
        self._name, self._stage, self._parts, self._done = name, stage, parts, 0
        self._bar: UUID | None = None
        self._changed = time.monotonic()

    def advance(self) -> None:
        """One more part is done."""
        self._done += 1
        self.show()

    def show(self) -> None:
        """Bring the UI up to date, not more often than every :data:`LONG` seconds, but at the end always."""
        now, ended = time.monotonic(), self._done == self._parts
        if self._parts == 1 or not (now - self._changed >= LONG or (ended and self._bar is not None)):
            return
        self._changed = now
        share, text = 100.0 * self._done / self._parts, f"{self._stage}: {self._done} of {self._parts}"
        with _best_effort():
            if self._bar is None:
                key = artifact_key(self._name, self._stage)
                made = create_progress_artifact(share, key=key, description=text)
                self._bar = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self._bar, share, text)


def artifact_key(name: str, kind: str) -> str:
    """A key as Prefect allows it: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{kind}".lower()).strip("-")


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what a server or a proxy in trouble makes the client raise has no end
        log.warning("the Prefect UI could not be updated (%s)", type(error).__name__)
