"""The flag of a collection and the leases of merges: each sees the other, whichever came first."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import esm_core.gc.flag
from esm_core.errors import EsmergeError, IntegrityError
from esm_core.gc.flag import STALE, raised_flag, read_flag, wait_for_collection
from esm_core.leases import FRESH, hold, holding, read_lease
from esm_core.stages import canonical_json
from esm_core.storage import Location


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "store"))


def abandon_flag(store: Location, age: timedelta) -> None:
    """A flag that a killed collection has left."""
    refreshed = (datetime.now(UTC) - age).isoformat()
    content = {"format": 1, "gc": {"id": "dead", "refreshed": refreshed}}
    (store / "gc/running.json").write_bytes(canonical_json(content))


def test_a_second_collection_stops(store: Location) -> None:
    with raised_flag(store):
        with pytest.raises(EsmergeError, match="another gc is running"), raised_flag(store):
            pass
        assert read_flag(store) is not None
    assert read_flag(store) is None


def test_the_flag_of_a_dead_collection_is_taken_over(store: Location) -> None:
    abandon_flag(store, STALE - timedelta(minutes=1))
    with pytest.raises(EsmergeError, match="void 10 minutes after"), raised_flag(store):
        pass
    abandon_flag(store, STALE + timedelta(minutes=1))
    with raised_flag(store) as flag:
        flag.confirm()
    assert read_flag(store) is None


def test_a_collection_that_lost_its_flag_deletes_nothing_more(store: Location) -> None:
    with raised_flag(store) as flag:
        flag.confirm()
        abandon_flag(store, timedelta(0))
        with pytest.raises(EsmergeError, match="taken over"):
            flag.confirm()
    assert read_flag(store) is not None, "the other one's flag stays"


def test_a_collection_that_slept_deletes_nothing_more(
    store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merges have stopped waiting for it meanwhile."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + STALE

    with raised_flag(store) as flag:
        monkeypatch.setattr(esm_core.gc.flag, "datetime", Clock)
        with pytest.raises(EsmergeError, match="slept for too long"):
            flag.confirm()


def test_a_flag_is_refreshed_while_a_collection_works(
    store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esm_core.gc.flag, "_REFRESH", timedelta(0))
    with raised_flag(store) as flag:
        first = read_flag(store)
        time.sleep(0.01)
        flag.confirm()
        second = read_flag(store)
    assert first is not None
    assert second is not None
    assert second.refreshed > first.refreshed


def test_a_lease_is_written_first_and_then_waits(store: Location, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "esm_core")
    taken = threading.Event()

    def take() -> None:
        hold(store, "pets", ["shifts/a"])
        taken.set()

    with raised_flag(store):
        threading.Thread(target=take).start()
        while not (store / "leases").files():
            time.sleep(0.01)
        assert not taken.wait(0.3)
    assert taken.wait(10)
    assert "waiting for gc to finish" in caplog.text


def test_a_lease_does_not_wait_for_collections_that_begin_after_it(store: Location) -> None:
    """They have read it. A store that is always being collected would hold up merges for ever."""
    waited = threading.Event()

    def wait() -> None:
        wait_for_collection(store, poll_seconds=0.01)
        waited.set()

    with raised_flag(store):
        threading.Thread(target=wait).start()
        assert not waited.wait(0.2)
        abandon_flag(store, timedelta(0))
        assert waited.wait(10)


def test_nobody_waits_for_a_dead_collection(store: Location) -> None:
    abandon_flag(store, STALE + timedelta(seconds=1))
    wait_for_collection(store)


def test_a_damaged_flag_is_named(store: Location) -> None:
    (store / "gc/running.json").write_bytes(b"{")
    with pytest.raises(IntegrityError, match=r"running\.json: is damaged"):
        wait_for_collection(store)


def test_a_lease_is_read_back_refreshed_and_released(store: Location) -> None:
    lease = hold(store, "pets", ["shifts/b", "shifts/a"])
    assert read_lease(lease.location) == lease
    assert lease.prefixes == ("shifts/a", "shifts/b")
    time.sleep(0.01)
    again = lease.refresh()
    assert again.refreshed > lease.refreshed
    assert (again.created, again.prefixes) == (lease.created, lease.prefixes)
    assert read_lease(lease.location) == again
    assert again.is_fresh(again.refreshed + FRESH - timedelta(seconds=1))
    assert not again.is_fresh(again.refreshed + FRESH)
    again.release()
    again.release()
    assert (store / "leases").files() == []


def test_a_lease_for_a_block_ends_with_it(store: Location) -> None:
    def fail() -> None:
        with holding(store, "pets", ["artifacts/pets"]):
            assert len((store / "leases").files()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (store / "leases").files() == []
