"""The task of garbage collection."""

import logging
from datetime import UTC, datetime

from prefect import task

from esm_core.gc.collect import collect
from esm_core.gc.delete import delete as delete_garbage
from esm_core.gc.report import Policy, parse_age
from esm_core.storage import Location
from tasks.options import OPTIONS, log_name

log = logging.getLogger(log_name)


@task(name="clean", **OPTIONS)
def clean_store(store: str, keep: int, min_age: str, delete: bool) -> str:
    """Collect the garbage of a store; returns what was done, for people."""
    root, policy, now = Location.parse(store), Policy(keep, parse_age(min_age)), datetime.now(UTC)
    report = delete_garbage(root, policy, now) if delete else collect(root, policy, now)
    for note in report.notes:
        log.warning(note)
    for item in report.garbage:
        log.info(
            "%s %s (%.3g MB): %s",
            "deleted" if delete else "would delete",
            item.path,
            item.bytes / 1e6,
            item.reason,
        )
    size = sum(item.bytes for item in report.garbage) / 1e6
    return f"{'deleted' if delete else 'would delete'} {len(report.garbage)} files and folders, {size:.3g} MB"
