"""The console of a deployed run, which the run outlives."""

import contextlib
import logging

from prefect.logging.handlers import PrefectConsoleHandler


class LastingConsoleHandler(PrefectConsoleHandler):
    """Prefect's console, whose reader may go.

    A Prefect worker reads what its runs print, through a pipe. When the worker is killed, rich answers the
    broken pipe with ``SystemExit``, in whichever thread logs next: a merge in the midst of its work would end
    as crashed, or its heartbeat would stop. The run goes on instead, and what it logs is in the UI.

    ``deployments/prefect.yaml`` names this class to the runs that it starts.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, or nothing once nobody reads it."""
        with contextlib.suppress(SystemExit):
            super().emit(record)
