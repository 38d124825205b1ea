import json
from pathlib import Path
from typing import Any

import pytest

from esm_core import InputError, IntegrityError
from esm_core.stages import FORMAT
from esm_core.storage import Location
from esm_core.store import check_store, prepare_store, recall, remember


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "store"))


def test_preparing_a_store_writes_its_format_and_nothing_else(store: Location) -> None:
    check_store(store)
    assert store.files() == []
    prepare_store(store)
    prepare_store(store)
    assert store.files() == ["format.json"]
    assert json.loads((store / "format.json").read_bytes()) == {"format": FORMAT}
    check_store(store)


def test_a_store_of_a_newer_format_is_refused_and_left_alone(store: Location) -> None:
    (store / "format.json").write_bytes(b'{"format": 99}')
    for use in (check_store, prepare_store):
        with pytest.raises(InputError, match=r"format 99.*Upgrade esmerge"):
            use(store)
    assert (store / "format.json").read_bytes() == b'{"format": 99}'


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b'{"format": "x"}', b'{"format": null}'], ids=str)
def test_a_damaged_format_is_named(store: Location, damaged: bytes) -> None:
    (store / "format.json").write_bytes(damaged)
    with pytest.raises(InputError, match=r"format\.json: is damaged"):
        check_store(store)


def test_a_store_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"^store: .*file/store cannot be written"):
        prepare_store(Location.parse(str(tmp_path / "file" / "store")))


def test_facts_are_computed_once_per_key(store: Location) -> None:
    calls: list[str] = []

    def compute(name: str) -> dict[str, Any]:
        calls.append(name)
        return {"sha256": name, "count": 3}

    key = {"url": "file:///a", "fingerprint": "1"}
    assert recall(store, "checkpoint", key) is None
    for _ in range(3):
        assert remember(store, "checkpoint", key, lambda: compute("first")) == {"sha256": "first", "count": 3}
    assert recall(store, "checkpoint", key) == {"sha256": "first", "count": 3}
    remember(store, "checkpoint", key | {"fingerprint": "2"}, lambda: compute("changed file"))
    remember(store, "images", key, lambda: compute("other kind"))
    assert calls == ["first", "changed file", "other kind"]


def test_a_failed_computation_is_not_noted(store: Location) -> None:
    def fails() -> dict[str, Any]:
        raise InputError("unreadable.")

    with pytest.raises(InputError, match="unreadable"):
        remember(store, "checkpoint", {"url": "a"}, fails)
    assert store.files() == []
    assert remember(store, "checkpoint", {"url": "a"}, lambda: {"ok": True}) == {"ok": True}


def test_a_damaged_note_is_named_not_believed(store: Location) -> None:
    remember(store, "checkpoint", {"url": "a"}, lambda: {"ok": True})
    (name,) = store.files()
    (store / name).write_bytes((store / name).read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=f"{name}: is damaged"):
        recall(store, "checkpoint", {"url": "a"})
