"""What a garbage collection keeps, what it deletes, and why."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from versions import digest, make_version

import esm_core.gc.delete
from esm_core.artifacts import open_version, verify_version, version_numbers
from esm_core.channels import promote, rollback
from esm_core.claims import HELD, claim_number
from esm_core.errors import InputError
from esm_core.gc.collect import collect
from esm_core.gc.delete import delete
from esm_core.gc.report import Policy, Report
from esm_core.leases import hold
from esm_core.stages import write_marker
from esm_core.storage import Location

DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "store"))


def later(days: float = 30) -> datetime:
    return datetime.now(UTC) + days * DAY


def stage(store: Location, kind: str, seed: int, complete: bool = True) -> str:
    """A stage's output; returns its path."""
    path = f"{kind}/{digest(seed)}"
    (store / path / "layer" / "c").write_bytes(bytes(100))
    if complete:
        write_marker(store / path, {})
    return path


def gone(report: Report) -> dict[str, str]:
    return {item.path: item.reason for item in report.garbage}


def kept(report: Report) -> dict[str, str]:
    return {item.path: item.reason for item in report.kept}


def label(number: int) -> str:
    return f"artifacts/pets/v{number:06d}"


# --- versions --------------------------------------------------------------------------------------------


def test_the_newest_versions_stay_and_the_others_go(store: Location) -> None:
    for seed in range(1, 9):
        make_version(store, seed=seed)
    report = collect(store, Policy(keep=3), later())
    assert set(gone(report)) == {label(n) for n in range(1, 6)}
    assert kept(report) == {label(8): "latest", **{label(n): "one of the newest 3" for n in (6, 7)}}
    assert all(item.bytes > 4000 for item in report.garbage)


def test_what_a_channel_points_to_stays_and_what_a_rollback_would_go_to(store: Location) -> None:
    for seed in range(1, 9):
        make_version(store, seed=seed)
    for version in (1, 2, 3):
        promote(store, "pets", version, "stable")
    promote(store, "pets", 5, "canary")
    report = collect(store, Policy(keep=1), later())
    assert kept(report) == {
        label(2): "a rollback of channel stable goes there",
        label(3): "channel stable",
        label(5): "channel canary",
        label(8): "latest",
    }
    delete(store, Policy(keep=1), later())
    assert rollback(store, "pets", "stable").entry.version == 2
    assert version_numbers(store, "pets") == [2, 3, 5, 8]


def test_a_version_that_was_current_lately_may_still_be_read(store: Location) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    assert gone(collect(store, Policy(keep=1), later(6))) == {}
    assert set(gone(collect(store, Policy(keep=1), later(8)))) == {label(1), label(2)}
    assert set(gone(collect(store, Policy(1, timedelta(0)), later(0)))) == {label(1), label(2)}


def test_a_number_is_never_given_twice(store: Location) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    claimed = claim_number(store / "artifacts" / "pets")
    delete(store, Policy(keep=1), later())
    assert (store / "artifacts/pets").children() == ["collected.json", "v000003"]
    assert claimed.number == 4
    assert not claimed.is_held()
    assert make_version(store, seed=9).number == 5


def test_a_claim_without_a_version_is_held_for_two_days(store: Location) -> None:
    make_version(store)
    claim = claim_number(store / "artifacts" / "pets")
    (claim.folder / "model/a").write_bytes(bytes(50))
    held = collect(store, Policy(min_age=timedelta(0)), later(0) + HELD - timedelta(minutes=1))
    assert kept(held)[label(2)].startswith("is being published")
    after = later(0) + HELD + timedelta(minutes=1)
    assert gone(collect(store, Policy(min_age=timedelta(0)), after)) == {
        label(2): "never published, and not written to for 2 days"
    }
    assert kept(collect(store, Policy(), after))[label(2)].startswith("is being published")


def test_a_publisher_taken_for_dead_that_commits_in_time_keeps_its_version(
    store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(store)
    manifest = (version.folder / "manifest.json").read_bytes()
    (version.folder / "manifest.json").delete()

    def commit(*arguments: object) -> None:
        """Happens after gc has judged and before it deletes."""
        (version.folder / "manifest.json").write_bytes(manifest)

    monkeypatch.setattr(esm_core.gc.delete, "retire_numbers", commit)
    assert gone(delete(store, Policy(), later())) == {}
    verify_version(open_version(store, "pets"))


def test_an_unreadable_manifest_is_reported_and_left(store: Location) -> None:
    for seed in range(1, 5):
        make_version(store, seed=seed)
    (store / label(1) / "manifest.json").write_bytes(b"{")
    newest = store / label(4) / "manifest.json"
    newest.write_bytes(newest.read_bytes()[:-20])
    report = delete(store, Policy(keep=1), later())
    assert set(gone(report)) == {label(2)}
    assert kept(report) == {
        label(1): "its manifest cannot be read",
        label(3): "latest",
        label(4): "its manifest cannot be read",
    }
    assert ["v000001" in report.notes[0], "v000004" in report.notes[1], len(report.notes)] == [True, True, 2]
    assert (store / label(1) / "model/a").is_file()


def test_an_unreadable_channel_keeps_every_version(store: Location) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    promote(store, "pets", 1, "stable")
    (store / "artifacts/pets/channels/stable/000001.json").write_bytes(b"{")
    report = collect(store, Policy(keep=1), later())
    assert gone(report) == {}
    assert set(kept(report).values()) == {"a channel cannot be read"}
    assert "000001.json: is damaged" in report.notes[0]


# --- stages ----------------------------------------------------------------------------------------------


def test_stages_of_versions_that_stay_are_kept(store: Location) -> None:
    needed, shared = stage(store, "shifts", 1), stage(store, "merges", 2)
    orphan, partial = stage(store, "shifts", 3), stage(store, "experts", 4, complete=False)
    score = f"scores/{digest(5)}.json"
    (store / score).write_bytes(b"{}")
    make_version(store, seed=1, store_paths=[orphan])
    make_version(store, seed=2, store_paths=[needed, shared])
    report = collect(store, Policy(keep=1), later())
    assert {path: why for path, why in gone(report).items() if "artifacts" not in path} == {
        orphan: "no version that stays and no merge needs it",
        score: "no version that stays and no merge needs it",
        partial: "never completed",
    }
    assert kept(report)[needed] == kept(report)[shared] == "pets v000002 was made from it"
    assert kept(collect(store, Policy(), later(6)))[partial] == "was written within 7 days"


def test_versions_of_older_releases_keep_their_shifts(store: Location) -> None:
    shift, merge = stage(store, "shifts", 1), stage(store, "merges", 2)
    make_version(store, inputs={"tasks": {"cats": {"proxies": {"shifts": digest(1)}}}})
    report = collect(store, Policy(), later())
    assert set(gone(report)) == {merge}
    assert shift in kept(report)
    assert "pets v000001 does not say what it was made from" in report.notes[0]


def test_what_esmerge_does_not_know_is_never_touched(store: Location) -> None:
    unknown = ["notes/readme.txt", f"future/{digest(1)}/complete.json", "shifts/mine/a"]
    unknown += ["artifacts/pets/notes"]
    unknown += ["artifacts/pets/old/manifest.json", "format.json", f"inspections/{digest(2)}.json"]
    for path in unknown:
        (store / path).write_bytes(b'{"format":1}')
    assert gone(delete(store, Policy(1, timedelta(0)), later())) == {}
    assert all((store / path).is_file() for path in unknown)


def test_an_import_goes_with_the_entries_that_name_it(store: Location) -> None:
    """An entry that names an import that is gone would break the next merge of that checkpoint."""
    old, used = f"imports/{digest(1)}.safetensors", f"imports/{digest(2)}.safetensors"
    for number, path in enumerate((old, used, used), start=10):
        (store / path).write_bytes(bytes(10))
        entry = {"format": 1, "facts": {"weights": (store / path).url}}
        (store / f"inspections/{digest(number)}.json").write_bytes(json.dumps(entry).encode())
    make_version(store, store_paths=[used])
    report = delete(store, Policy(), later())
    (item,) = report.garbage
    assert (item.path, item.first) == (old, (f"inspections/{digest(10)}.json",))
    assert (store / "inspections").files() == [f"{digest(11)}.json", f"{digest(12)}.json"]
    assert (store / used).is_file()


def test_what_is_written_before_a_lease_can_be_is_kept_for_two_days(store: Location) -> None:
    (store / f"plans/{digest(1)}.json").write_bytes(b"{}")
    (store / f"imports/{digest(2)}.safetensors").write_bytes(b"{}")
    assert gone(collect(store, Policy(min_age=timedelta(0)), later(1.9))) == {}
    assert len(gone(collect(store, Policy(min_age=timedelta(0)), later(2.1)))) == 2


# --- leases ----------------------------------------------------------------------------------------------


def test_a_lease_keeps_what_it_names_for_two_days(store: Location) -> None:
    path, other = stage(store, "shifts", 1), stage(store, "shifts", 2)
    lease = hold(store, "pets", [path])
    report = collect(store, Policy(min_age=timedelta(0)), later(1.9))
    assert set(gone(report)) == {other}
    assert kept(report)[path].startswith("a merge of pets needs it (leases/")
    report = collect(store, Policy(min_age=timedelta(0)), later(2.1))
    assert set(gone(report)) == {path, other, f"leases/{lease.location.name}"}
    lease.release()
    assert set(gone(collect(store, Policy(min_age=timedelta(0)), later(0)))) == {path, other}


def test_a_lease_of_a_folder_keeps_what_is_being_written_there(store: Location) -> None:
    score = f"scores/{digest(1)}.json"
    for path in (score, f"{score}.0a.tmp"):
        (store / path).write_bytes(b"{}")
    lease = hold(store, "pets", [score])
    assert gone(collect(store, Policy(min_age=timedelta(0)), later(1))) == {}
    lease.release()
    hold(store, "pets", ["scores"])
    assert gone(collect(store, Policy(min_age=timedelta(0)), later(1))) == {}


def test_a_lease_that_cannot_be_read_keeps_all_stages(store: Location) -> None:
    path = stage(store, "shifts", 1)
    (store / "leases/a.json").write_bytes(b'{"format":1,"lease":{}}')
    report = collect(store, Policy(min_age=timedelta(0)), later(1))
    assert gone(report) == {}
    assert kept(report)[path] == "leases/a.json cannot be read, and may need it"
    assert report.notes


# --- deletion --------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_looking(store: Location) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    stage(store, "shifts", 1)
    before = store.fingerprint()
    assert len(gone(collect(store, Policy(keep=1), later()))) == 3
    assert store.fingerprint() == before


def test_what_is_deleted_is_gone_and_the_rest_is_whole(store: Location) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    path = stage(store, "shifts", 1)
    report = delete(store, Policy(keep=1), later())
    assert set(gone(report)) == {label(1), label(2), path}
    assert not (store / path).is_dir()
    assert version_numbers(store, "pets") == [3]
    assert open_version(store, "pets").manifest["seed"] == 3
    assert gone(delete(store, Policy(keep=1), later())) == {}
    assert not (store / "gc/running.json").is_file()


@pytest.mark.parametrize("survived", range(1, 9))
def test_a_killed_collection_is_completed_by_the_next(
    store: Location, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Killed at any deletion: what is left looks whole only where it is, and the next one ends the work."""
    for seed in range(1, 4):
        make_version(store, seed=seed)
    path = stage(store, "shifts", 1)
    real, left = Location.delete, [survived]

    def dying(location: Location) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(location)

    monkeypatch.setattr(Location, "delete", dying)
    with pytest.raises(KeyboardInterrupt):
        delete(store, Policy(keep=1), later())
    monkeypatch.undo()
    for number in version_numbers(store, "pets"):
        version = open_version(store, "pets", number)
        assert all((version.folder / file).is_file() for file in version.manifest["files"])
    if (store / path / "complete.json").is_file():
        assert (store / path / "layer/c").is_file()
    (store / "gc/running.json").delete()
    delete(store, Policy(keep=1), later())
    assert (store / "artifacts/pets").children() == ["collected.json", "v000003"]
    assert not (store / path).is_dir()


def test_what_a_killed_deletion_left_goes_at_once(store: Location) -> None:
    for seed in range(1, 3):
        make_version(store, seed=seed)
    for file in ("claim.json", "manifest.json"):
        (store / label(1) / file).delete()
    report = collect(store, Policy(), later(0))
    assert gone(report) == {label(1): "left by a deletion that was interrupted"}


def test_what_cannot_be_deleted_is_said_and_the_rest_goes(
    store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(1, 4):
        make_version(store, seed=seed)
    real = Location.delete

    def refusing(location: Location) -> None:
        if location.url.endswith("v000001/claim.json"):
            raise InputError("v000001/claim.json: access refused")
        real(location)

    monkeypatch.setattr(Location, "delete", refusing)
    report = delete(store, Policy(keep=1), later())
    assert report.failed == ["v000001/claim.json: access refused"]
    assert set(gone(report)) == {label(2)}
    assert version_numbers(store, "pets") == [1, 3]
    assert not (store / "gc/running.json").is_file()
