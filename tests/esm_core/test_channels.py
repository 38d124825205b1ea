"""Channels: promotion, rollback, and what their log means."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services import S3Server
from versions import make_version

import esm_core.channels
from esm_core.artifacts import open_version, verify_version
from esm_core.channel_log import Action, Entry, append, read_log, stack
from esm_core.channels import channel_version, channels, history, promote, rollback, rollback_targets
from esm_core.errors import EsmergeError, InputError, IntegrityError
from esm_core.storage import Location


@pytest.fixture
def store(tmp_path: Path) -> Location:
    """Five versions of pets."""
    location = Location.parse(str(tmp_path / "store"))
    for seed in range(1, 6):
        make_version(location, seed=seed)
    return location


def current(store: Location, channel: str = "stable") -> int:
    return channel_version(store, "pets", channel).number


def remove(store: Location, number: int) -> None:
    (store / "artifacts" / "pets" / f"v{number:06d}").delete()


def test_a_channel_points_to_what_was_promoted_last(store: Location) -> None:
    assert promote(store, "pets", 2, "stable").moved
    promote(store, "pets", "v000004", "stable", note="faster", by="ada")
    promote(store, "pets", "latest", "canary")
    assert open_version(store, "pets", "stable").number == 4
    assert {name: entry.version for name, entry in channels(store, "pets").items()} == {
        "canary": 5,
        "stable": 4,
    }
    first, second = history(store, "pets", "stable")
    assert (first.number, first.version, first.action, first.by, first.note) == (1, 2, "promote", None, None)
    assert (second.number, second.version, second.by, second.note) == (2, 4, "ada", "faster")
    written = json.loads((store / "artifacts/pets/channels/stable/000002.json").read_bytes())
    assert set(written) == {"format", "version", "action", "created", "by", "note"}


def test_a_channel_can_be_promoted_to_another(store: Location) -> None:
    promote(store, "pets", 3, "canary")
    promote(store, "pets", "canary", "stable")
    assert current(store) == 3


def test_promoting_what_the_channel_points_to_writes_nothing(store: Location) -> None:
    first = promote(store, "pets", 2, "stable")
    again = promote(store, "pets", 2, "stable")
    assert not again.moved
    assert again.entry == first.entry
    assert len(history(store, "pets", "stable")) == 1


def test_a_damaged_version_is_not_promoted(store: Location) -> None:
    promote(store, "pets", 1, "stable")
    (store / "artifacts/pets/v000002/model/b").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="model/b: has 5 bytes"):
        promote(store, "pets", 2, "stable")
    assert current(store) == 1
    assert (store / "leases").files() == []


@pytest.mark.parametrize("channel", ["latest", "v3", "12", "v000012", "../stable", "", "sta ble", "a" * 81])
def test_names_that_no_channel_can_have(store: Location, channel: str) -> None:
    with pytest.raises(InputError, match="channel: "):
        promote(store, "pets", 1, channel)
    assert not (store / "artifacts/pets/channels").is_dir()


def test_an_unknown_channel_is_refused_with_those_there_are(store: Location) -> None:
    with pytest.raises(InputError, match=r"'stable' is not a version of pets.*it has none"):
        open_version(store, "pets", "stable")
    promote(store, "pets", 1, "canary")
    promote(store, "pets", 1, "stable")
    with pytest.raises(InputError, match=r"'table' is not a version of pets.*\(canary, stable\)"):
        open_version(store, "pets", "table")
    with pytest.raises(InputError, match=r"has no channel table \(channels: canary, stable\)"):
        history(store, "pets", "table")


def test_two_rollbacks_go_two_versions_back(store: Location) -> None:
    for version in (1, 2, 3):
        promote(store, "pets", version, "stable")
    assert rollback(store, "pets", "stable").entry.version == 2
    assert rollback(store, "pets", "stable", note="worse too").entry.version == 1
    with pytest.raises(InputError, match="no version to go back to from v000001"):
        rollback(store, "pets", "stable")
    assert [e.action for e in history(store, "pets", "stable")] == ["promote"] * 3 + ["rollback"] * 2


def test_a_rollback_never_goes_to_the_version_just_left(store: Location) -> None:
    for version in (1, 2, 3):
        promote(store, "pets", version, "stable")
    rollback(store, "pets", "stable")  # 3 was bad
    promote(store, "pets", 4, "stable")  # so is 4
    assert rollback(store, "pets", "stable").entry.version == 2
    assert rollback(store, "pets", "stable").entry.version == 1


def test_a_rollback_passes_over_versions_that_were_deleted(store: Location) -> None:
    for version in (1, 2, 3, 4):
        promote(store, "pets", version, "stable")
    remove(store, 2)
    remove(store, 3)
    assert rollback(store, "pets", "stable").entry.version == 1


def test_a_rollback_to_a_named_version(store: Location) -> None:
    for version in (1, 2, 3):
        promote(store, "pets", version, "stable")
    with pytest.raises(InputError, match="cannot go back to 5: use one of v000002, v000001"):
        rollback(store, "pets", "stable", to=5)
    assert rollback(store, "pets", "stable", to="v000001").entry.version == 1
    with pytest.raises(InputError, match="no version to go back"):
        rollback(store, "pets", "stable")


def test_a_rollback_to_a_damaged_version_is_refused(store: Location) -> None:
    promote(store, "pets", 1, "stable")
    promote(store, "pets", 2, "stable")
    (store / "artifacts/pets/v000001/model/a").delete()
    with pytest.raises(IntegrityError, match="model/a: is missing"):
        rollback(store, "pets", "stable")
    assert current(store) == 2


def test_a_rollback_beside_a_promotion_is_not_taken_twice(
    store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        promote(store, "pets", version, "stable")

    def somebody_was_faster(*arguments: object) -> Entry | None:
        monkeypatch.undo()
        promote(store, "pets", 5, "stable")
        return append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(esm_core.channels, "append", somebody_was_faster)
    with pytest.raises(EsmergeError, match="moved to v000005 at the same moment"):
        rollback(store, "pets", "stable")
    assert current(store) == 5


def test_nothing_is_written_where_there_is_no_store(tmp_path: Path) -> None:
    absent = Location.parse(str(tmp_path / "absent"))
    for act in (lambda: promote(absent, "pets", 1, "stable"), lambda: rollback(absent, "pets", "stable")):
        with pytest.raises(InputError):
            act()
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"format":1,"version":1}', b'{"format":1,"version":1,'])
def test_a_damaged_entry_is_named(store: Location, damage: bytes) -> None:
    promote(store, "pets", 1, "stable")
    (store / "artifacts/pets/channels/stable/000001.json").write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"stable/000001\.json: is damaged"):
        open_version(store, "pets", "stable")


def test_an_entry_of_a_newer_esmerge_is_refused(store: Location) -> None:
    (store / "artifacts/pets/channels/stable/000001.json").write_bytes(b'{"format": 99, "where": 1}')
    with pytest.raises(IntegrityError, match="Upgrade esmerge"):
        open_version(store, "pets", "stable")


def test_promotions_at_once_are_all_recorded(store: Location) -> None:
    numbers = [1, 2, 3, 4, 5] * 3
    with ThreadPoolExecutor(8) as pool:
        moves = list(pool.map(lambda n: promote(store, "pets", n, "stable"), numbers))
    entries = history(store, "pets", "stable")
    written = [move.entry for move in moves if move.moved]
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert sorted(written, key=lambda entry: entry.number) == entries
    assert all(one.version != after.version for one, after in pairwise(entries))


@pytest.mark.s3
def test_promotions_at_once_on_s3(s3: S3Server) -> None:
    store = s3.bucket() / "store"
    for seed in range(1, 5):
        make_version(store, seed=seed)
    with ThreadPoolExecutor(4) as pool:
        moves = list(pool.map(lambda n: promote(store, "pets", n, "stable"), [1, 2, 3, 4]))
    entries = history(store, "pets", "stable")
    assert sorted(move.entry.number for move in moves) == [entry.number for entry in entries] == [1, 2, 3, 4]
    assert sorted(entry.version for entry in entries) == [1, 2, 3, 4]
    verify_version(open_version(store, "pets", "stable"))
    assert rollback(store, "pets", "stable").entry.version == entries[-2].version


# --- what a log means, whatever happened ---------------------------------------------------------------


STEPS = st.lists(st.one_of(st.integers(1, 6), st.just("back")), max_size=40)


def logged(entries: list[Entry], action: Action, version: int) -> None:
    number, created = len(entries) + 1, "2026-01-01T00:00:00+00:00"
    entries.append(Entry(number=number, version=version, action=action, created=created))


@given(steps=STEPS, existing=st.sets(st.integers(1, 6)))
def test_any_history_walks_back_the_way_it_came(steps: list[int | str], existing: set[int]) -> None:
    """Against the plainest model: a list that promotions push and rollbacks pop."""
    entries: list[Entry] = []
    model: list[int] = []
    for step in steps:
        if isinstance(step, int):
            logged(entries, "promote", step)
            if model[-1:] != [step]:
                model.append(step)
        elif entries and (targets := rollback_targets(entries, sorted(existing))):
            left = model[-1]
            while model[-1] == left or model[-1] not in existing:
                model.pop()
            assert targets[0] == model[-1] != left
            logged(entries, "rollback", targets[0])
        assert stack(entries) == model


@given(promoted=st.lists(st.integers(1, 6), min_size=1, unique=True))
def test_rollbacks_end_at_the_first_version_and_never_turn_round(promoted: list[int]) -> None:
    entries: list[Entry] = []
    for version in promoted:
        logged(entries, "promote", version)
    seen = [promoted[-1]]
    while targets := rollback_targets(entries, promoted):
        logged(entries, "rollback", targets[0])
        seen.append(targets[0])
    assert seen == promoted[::-1]


def test_a_log_is_read_in_the_order_of_its_numbers(store: Location) -> None:
    folder = store / "artifacts" / "pets"
    for number in range(1, 13):
        append(folder, "stable", number, 1 + number % 2, "promote", None, None)
    shutil.copy(
        f"{folder.path}/channels/stable/000012.json", f"{folder.path}/channels/stable/000012.json.tmp"
    )
    assert [entry.number for entry in read_log(folder, "stable")] == list(range(1, 13))
    assert append(folder, "stable", 12, 5, "promote", None, None) is None
