"""Following what the platform does: one line per change of a flow run and per line it logs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from deployments.stack.http import ask
from esm_core.errors import EsmergeError

Found = TypeVar("Found")
Say = Callable[[str], None]

_PAGE = 200
_POLL = 1.0
_LAST_LINES = 4.0
_LATEST = timedelta(minutes=2)
_BAD = ("FAILED", "CRASHED", "CANCELLED")


@dataclass
class Follower:
    """Reads the runs of the deployments and their logs, each once.

    Parameters
    ----------
    api : str
        URL of Prefect's API.
    ui : str
        URL of its pages, for messages.
    say : callable
        Told every line.
    since : str
        Runs that were made before this time (ISO) are not followed.
    """

    api: str
    ui: str
    say: Say
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    lines: list[str] = field(default_factory=list)
    """Every logged line so far."""
    _states: dict[str, str] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)
    _flows: dict[str, str] = field(default_factory=dict)

    def until(self, what: str, seconds: float, found: Callable[[], Found | None]) -> Found:
        """Follow until ``found`` finds something and no run is under way.

        Raises
        ------
        EsmergeError
            Nothing was found in time, or a run failed; names the run.
        """
        deadline = time.monotonic() + seconds
        bad = {run["id"] for run in self.poll() if run["state_type"] in _BAD}
        while True:
            runs = self.poll()
            for run in runs:
                if run["state_type"] in _BAD and run["id"] not in bad:
                    raise EsmergeError(f"{what}: {self._name(run)} {_reason(run)} {self.link(run)}")
            result = found()
            ended = all(run["state_type"] == "COMPLETED" or run["id"] in bad for run in runs)
            if result is not None and ended:
                time.sleep(_LAST_LINES)
                self.poll()
                return result
            if time.monotonic() > deadline:
                last = f"{self._name(runs[-1])}, {self.link(runs[-1])}" if runs else "none"
                raise EsmergeError(f"{what}: not after {seconds:.0f} s. The last run: {last}")
            time.sleep(_POLL)

    def poll(self) -> list[dict[str, Any]]:
        """Say what is new; returns the runs, oldest first, without those that are scheduled for later."""
        created = {"tags": {"all_": ["esmerge"]}, "expected_start_time": {"after_": self.since}}
        body = {"flow_runs": created, "sort": "EXPECTED_START_TIME_ASC", "limit": _PAGE, "offset": 0}
        runs = [run for run in ask(f"{self.api}/flow_runs/filter", body) if not _is_for_later(run)]
        for run in runs:
            if self._states.get(run["id"]) != run["state_name"]:
                self._states[run["id"]] = run["state_name"]
                self.say(f"{_now()}  {self._name(run):32} {run['state_name']}")
        if runs:
            self._say_logs(runs)
        return runs

    def link(self, run: dict[str, Any]) -> str:
        """Where a person sees the run."""
        return f"{self.ui}/runs/flow-run/{run['id']}"

    def _say_logs(self, runs: list[dict[str, Any]]) -> None:
        """Workers send what they log in batches, so a line can come after later ones."""
        names = {run["id"]: self._name(run) for run in runs}
        after = datetime.now(UTC) - _LATEST
        chosen = {"flow_run_id": {"any_": list(names)}, "timestamp": {"after_": after.isoformat()}}
        offset, page = 0, list[dict[str, Any]]([{}])
        while page:
            body = {"logs": chosen, "sort": "TIMESTAMP_ASC", "limit": _PAGE, "offset": offset}
            page = ask(f"{self.api}/logs/filter", body)
            offset += len(page)
            for log in page:
                if log["id"] in self._logged:
                    continue
                self._logged.add(log["id"])
                self.lines.append(log["message"])
                if log["name"].startswith(("esm", "prefect.flow_runs")) and "\n" not in log["message"]:
                    self.say(f"{log['timestamp'][11:19]}  {names[log['flow_run_id']]:32} {log['message']}")

    def _name(self, run: dict[str, Any]) -> str:
        flow = run["flow_id"]
        if flow not in self._flows:
            self._flows[flow] = ask(f"{self.api}/flows/{flow}")["name"]
        return f"{self._flows[flow]} {run['name']}"


def _is_for_later(run: dict[str, Any]) -> bool:
    now = datetime.now(UTC).isoformat()
    return bool(run["state_type"] == "SCHEDULED" and run["expected_start_time"] > now)


def _reason(run: dict[str, Any]) -> str:
    return f"ended as {run['state_name']}: {(run.get('state') or {}).get('message') or 'see its log'}"


def _now() -> str:
    return datetime.now(UTC).strftime("%H:%M:%S")
