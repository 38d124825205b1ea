"""The flag of a garbage collection that deletes: ``{store}/gc/running.json``.

A merge writes its lease and then looks at the flag; a collection writes the flag and then looks at the
leases. So one of the two sees the other, whichever came first.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from esm_core.errors import EsmergeError, InputError, IntegrityError
from esm_core.stages import FORMAT, canonical_json, read_versioned
from esm_core.storage import Location

STALE = timedelta(minutes=10)
"""A flag that was not refreshed for so long is that of a collection that died."""

_REFRESH = timedelta(minutes=1)
_ATTEMPTS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flag:
    """What a collection says of itself: ``id`` is its own, times are UTC."""

    id: str
    refreshed: datetime

    def is_fresh(self) -> bool:
        return datetime.now(UTC) - self.refreshed < STALE


class Raised:
    """A flag of this process, to be confirmed before every deletion."""

    def __init__(self, store: Location, own_id: str) -> None:
        self._store, self._id = store, own_id
        self._refresh()

    def confirm(self) -> None:
        """Make sure that merges still wait for this collection.

        Raises
        ------
        EsmergeError
            They do not: it slept too long, or another collection has taken over. Nothing may be deleted.
        """
        # Half the time: what is deleted next has the other half to be gone in.
        if datetime.now(UTC) - self._refreshed > STALE / 2:
            raise EsmergeError(f"{_place(self._store)}: this gc slept for too long to go on. Run it again.")
        flag = read_flag(self._store)
        if flag is None or flag.id != self._id:
            raise EsmergeError(f"{_place(self._store)}: another gc has taken over, so this one stops.")
        if datetime.now(UTC) - self._refreshed > _REFRESH:
            self._refresh()

    def lower(self) -> None:
        """Remove the flag, if it is still this collection's."""
        flag = read_flag(self._store)
        if flag is not None and flag.id == self._id:
            _place(self._store).delete()

    def _refresh(self) -> None:
        self._refreshed = datetime.now(UTC)
        _place(self._store).write_bytes(_content(self._id, self._refreshed))


@contextlib.contextmanager
def raised_flag(store: Location) -> Iterator[Raised]:
    """Raise the flag for the length of a block.

    Raises
    ------
    EsmergeError
        Another collection is running. Its flag is stale ten minutes after it died.
    """
    own_id = uuid.uuid4().hex
    if not _place(store).create(_content(own_id, datetime.now(UTC))):
        flag = read_flag(store)
        if flag is None or flag.is_fresh():
            raise EsmergeError(
                f"{_place(store)}: another gc is running in this store. Wait until it is done; if it was "
                f"killed, its flag is void {STALE.total_seconds() / 60:.0f} minutes after that."
            )
        log.info("taking over from a gc that died")
    # Written over a stale one, not deleted and made anew: there is no moment without a flag.
    flag_of_this = Raised(store, own_id)
    try:
        yield flag_of_this
    finally:
        flag_of_this.lower()


def wait_for_collection(store: Location, poll_seconds: float = 1.0) -> None:
    """Return once the collection that is running now, if any, is done: its flag is gone, or stale.

    One that begins meanwhile is not waited for: it has read the leases that were there when this was called.
    """
    first = read_flag(store)
    if first is None or not first.is_fresh():
        return
    log.warning("waiting for gc to finish in %s", store)
    flag: Flag | None = first
    while flag is not None and flag.id == first.id and flag.is_fresh():
        time.sleep(poll_seconds)
        flag = read_flag(store)


def read_flag(store: Location) -> Flag | None:
    """The flag in a store; :class:`IntegrityError` where it is damaged."""
    place = _place(store)
    for attempt in count(1):
        if not place.is_file():
            break
        try:
            facts = read_versioned(place, "gc")
            return Flag(str(facts["id"]), datetime.fromisoformat(facts["refreshed"]))
        except IntegrityError:
            raise
        except InputError:
            # Gone since it was looked for, and perhaps there again: the next collection's.
            if attempt == _ATTEMPTS:
                raise
    return None


def _place(store: Location) -> Location:
    return store / "gc" / "running.json"


def _content(own_id: str, refreshed: datetime) -> bytes:
    return canonical_json({"format": FORMAT, "gc": {"id": own_id, "refreshed": refreshed.isoformat()}})
