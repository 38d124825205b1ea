"""Leases: what a running merge needs in the store, said before it asks what is there.

``{store}/leases/{uuid}.json`` lists folders and files. The garbage collector keeps them while the lease is
fresh. A merge that fails leaves its lease, so that a rerun finds what was done; one that ends removes it.
"""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from esm_core.errors import EsmergeError
from esm_core.gc.flag import wait_for_collection
from esm_core.stages import FORMAT, canonical_json, read_versioned
from esm_core.storage import Location

if TYPE_CHECKING:  # whoever only reads leases, as channels and gc do, waits for no torch
    from esm_core.plan import Plan

FRESH = timedelta(hours=48)
"""How long a lease holds after it was last refreshed."""


@dataclass(frozen=True)
class Lease:
    """What is in use in a store, and by which artifact's merge.

    Attributes
    ----------
    location : Location
        The lease's own file.
    name : str
    created, refreshed : datetime
        UTC.
    prefixes : tuple of str
        Folders and files, relative to the store.
    """

    location: Location
    name: str
    created: datetime
    refreshed: datetime
    prefixes: tuple[str, ...]

    def is_fresh(self, now: datetime) -> bool:
        return now - self.refreshed < FRESH

    def refresh(self, plan: "Plan | None" = None) -> "Lease":
        """Start the 48 hours anew; with ``plan``, add what is reachable from it by now.

        Returns the lease as it is now, once no garbage collection is running.
        """
        prefixes = set(self.prefixes) | set(_reachable(plan) if plan is not None else ())
        lease = replace(self, refreshed=datetime.now(UTC), prefixes=tuple(sorted(prefixes)))
        return _written(lease)

    def release(self) -> None:
        """Remove the lease: what it names is not in use any more."""
        self.location.delete()


def take_lease(plan: "Plan") -> Lease:
    """Say what a merge needs, then wait for a garbage collection that is running. Call before the first
    question about what is complete.

    Raises
    ------
    EsmergeError
        A converted checkpoint that the plan reads was collected after it was inspected.
    """
    lease = hold(plan.store, plan.recipe.name, _reachable(plan))
    gone = [p for p in lease.prefixes if p.startswith("imports/") and not (plan.store / p).is_file()]
    if gone:
        lease.release()
        raise EsmergeError(
            f"{plan.store / gone[0]}: was collected by gc while the merge began. Run again: it is made anew."
        )
    return lease


def hold(store: Location, name: str, prefixes: Iterable[str]) -> Lease:
    """A lease on any parts of a store, written before this returns, when no garbage collection is running."""
    now = datetime.now(UTC)
    place = store / "leases" / f"{uuid.uuid4().hex}.json"
    return _written(Lease(place, name, now, now, tuple(sorted(prefixes))))


@contextmanager
def holding(store: Location, name: str, prefixes: Iterable[str]) -> Iterator[None]:
    """:func:`hold` for the length of a block, however it ends."""
    lease = hold(store, name, prefixes)
    try:
        yield
    finally:
        lease.release()


def read_lease(location: Location) -> Lease:
    """A lease that was written; :class:`IntegrityError` where it is damaged or of a newer format."""
    facts = read_versioned(location, "lease")
    created, refreshed = (datetime.fromisoformat(facts[key]) for key in ("created", "refreshed"))
    return Lease(location, facts["name"], created, refreshed, tuple(facts["prefixes"]))


def _written(lease: Lease) -> Lease:
    facts = {
        "name": lease.name,
        "created": lease.created.isoformat(),
        "refreshed": lease.refreshed.isoformat(),
        "prefixes": list(lease.prefixes),
    }
    lease.location.write_bytes(canonical_json({"format": FORMAT, "lease": facts}))
    # In this order: a collection that begins from here on reads the lease, an earlier one is waited for.
    wait_for_collection(lease.location.parent.parent)
    return lease


def _reachable(plan: "Plan") -> list[str]:
    from esm_core.reachable import reachable

    return reachable(plan)
