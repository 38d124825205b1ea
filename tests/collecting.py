"""A garbage collection in a process of its own, again and again, while something else happens."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from esm_core.storage import Location

LOOP = """
import json, sys, threading, time
from datetime import UTC, datetime, timedelta
from esm_core.gc.delete import delete
from esm_core.gc.report import Policy
from esm_core.storage import Location

store, keep = Location(sys.argv[1]), int(sys.argv[2])
stopping, runs, deleted = threading.Event(), 0, []
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
print("ready", flush=True)
while not stopping.is_set():
    report = delete(store, Policy(keep, timedelta(0)), datetime.now(UTC))
    runs, deleted = runs + 1, deleted + [item.path for item in report.garbage]
    assert not report.failed and not report.notes, report
    time.sleep(0.05)
print(json.dumps({"runs": runs, "deleted": deleted}))
"""


@contextlib.contextmanager
def collecting(store: Location, keep: int) -> Iterator[dict[str, Any]]:
    """Collect all the time, whatever its age; the mapping holds ``runs`` and ``deleted`` after the block."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-c", LOOP, store.url, str(keep)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=dict(os.environ), text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        try:
            yield found
        finally:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found |= json.loads(out)
