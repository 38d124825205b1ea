"""Deleting what a collection found, beside merges that are running and readers that are reading."""

import logging
from dataclasses import replace
from datetime import datetime

from esm_core.claims import retire_numbers
from esm_core.errors import InputError
from esm_core.gc.collect import collect
from esm_core.gc.flag import raised_flag
from esm_core.gc.report import Garbage, Policy, Report
from esm_core.storage import Location

log = logging.getLogger(__name__)


def delete(store: Location, policy: Policy, now: datetime) -> Report:
    """Delete what :func:`esm_core.gc.collect.collect` finds, judged anew once merges wait for this.

    Returns
    -------
    Report
        ``garbage`` is what was deleted, ``failed`` what could not be.

    Raises
    ------
    EsmergeError
        Another collection is running in the store, or has taken this one's place.
    """
    with raised_flag(store) as flag:
        report = collect(store, policy, now, flag.confirm)
        for name, highest in report.retired.items():
            retire_numbers(store / "artifacts" / name, highest)
        deleted = []
        for item in report.garbage:
            flag.confirm()
            try:
                if _remove(store, item):
                    deleted.append(item)
                    log.info("deleted %s (%s)", item.path, item.reason)
            except InputError as error:
                report.failed.append(str(error))
    return replace(report, garbage=deleted)


def _remove(store: Location, item: Garbage) -> bool:
    for path in item.first:
        (store / path).delete()
    if item.unless is not None and (store / item.unless).is_file():
        return False
    (store / item.path).delete()
    return True
