"""promote, rollback, channels and gc, as people and scripts call them."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from services import Command
from versions import digest, make_version

from esm_core.artifacts import version_numbers
from esm_core.errors import InputError
from esm_core.gc.flag import raised_flag
from esm_core.gc.report import parse_age
from esm_core.stages import write_marker
from esm_core.storage import Location


@pytest.fixture
def store(tmp_path: Path) -> Location:
    """Three versions of pets."""
    location = Location.parse(str(tmp_path / "store"))
    for seed in range(1, 4):
        make_version(location, seed=seed)
    return location


def test_a_channel_is_moved_and_shown(store: Location, esmerge: Command) -> None:
    promote = ("promote", "pets", "--channel", "stable", "--store", store)
    assert esmerge(*promote, "1").out == "pets stable → v000001\n"
    assert esmerge(*promote, "latest", "--note", "more cats", "--by", "ada").out == "pets stable → v000003\n"
    assert "points to v000003 already" in esmerge(*promote, "v3").out
    shown = esmerge("channels", "pets", "--store", store)
    assert "stable" in shown.out
    assert "v000003" in shown.out
    assert "more cats" in shown.out
    rolled = esmerge("rollback", "pets", "--channel", "stable", "--store", store, "--note", "slower")
    assert rolled.out == "pets stable → v000001 (rolled back)\n"
    history = json.loads(esmerge("channels", "pets", "--store", store, "--channel", "stable", "--json").out)
    assert [(e["number"], e["action"], e["version"], e["by"], e["note"]) for e in history] == [
        (1, "promote", 1, None, None),
        (2, "promote", 3, "ada", "more cats"),
        (3, "rollback", 1, None, "slower"),
    ]
    found = json.loads(esmerge("channels", "pets", "--store", store, "--json").out)
    assert found["stable"] == history[-1]


def test_every_command_takes_a_channel_for_a_version(store: Location, esmerge: Command) -> None:
    esmerge("promote", "pets", "2", "--channel", "stable", "--store", store)
    assert json.loads(esmerge("show", "pets", "stable", "--store", store, "--json").out)["version"] == 2
    assert esmerge("verify", "pets", "stable", "--store", store).out == "pets v000002: 2 files, all intact\n"
    assert esmerge("promote", "pets", "stable", "--channel", "prod", "--store", store).out.startswith(
        "pets prod"
    )


def test_json_says_whether_a_channel_moved(store: Location, esmerge: Command) -> None:
    promote = ("promote", "pets", "2", "--channel", "stable", "--store", store, "--json")
    assert json.loads(esmerge(*promote).out)["moved"] is True
    assert json.loads(esmerge(*promote).out)["moved"] is False
    esmerge("promote", "pets", "3", "--channel", "stable", "--store", store)
    rollback = esmerge("rollback", "pets", "--channel", "stable", "--store", store, "--to", "2", "--json")
    assert {"channel": "stable", "version": 2, "action": "rollback"}.items() <= json.loads(
        rollback.out
    ).items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("promote", "pets", "9", "--channel", "stable"), "has no published version v000009"),
        (("promote", "cars", "1", "--channel", "stable"), "has no published version v000001"),
        (("promote", "pets", "1", "--channel", "latest"), "'latest' names a version already"),
        (("promote", "pets", "1", "--channel", "v2"), "'v2' names a version already"),
        (("rollback", "pets", "--channel", "stable"), "has no channel stable (channels: it has none)"),
        (("channels", "pets", "--channel", "stable"), "has no channel stable"),
        (("show", "pets", "stable"), "'stable' is not a version of pets"),
        (("gc", "--min-age", "a week"), "write a number and a unit"),
    ],
)
def test_mistakes_are_named(store: Location, esmerge: Command, arguments: tuple[str, ...], said: str) -> None:
    outcome = esmerge(*arguments, "--store", store)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_no_channel_yet_is_no_mistake(store: Location, esmerge: Command) -> None:
    assert "pets has no channel in" in esmerge("channels", "pets", "--store", store).out
    assert "cars has no published version and no channel" in esmerge("channels", "cars", "--store", store).out
    assert json.loads(esmerge("channels", "pets", "--store", store, "--json").out) == {}


def test_gc_says_what_would_go_and_then_deletes_it(store: Location, esmerge: Command) -> None:
    path = f"shifts/{digest(1)}"
    (store / path / "c").write_bytes(bytes(2_000_000))
    write_marker(store / path, {})
    esmerge("promote", "pets", "1", "--channel", "stable", "--store", store)
    gc = ("gc", "--store", store, "--keep", "1", "--min-age", "0s")
    looked = esmerge(*gc)
    assert looked.code == 0
    assert "2 files and folders, 2.0 MB, would be deleted" in looked.out
    for expected in ("v000001", "channel stable", "v000003", "latest", path, "no merge needs it"):
        assert expected in looked.out
    assert (store / path).is_dir()
    report = json.loads(esmerge(*gc, "--delete", "--json").out)
    assert report["deleted"] is True
    assert [item["path"] for item in report["garbage"]] == ["artifacts/pets/v000002", path]
    assert report["bytes"] > 2_000_000
    assert not (store / path).is_dir()
    assert "nothing to delete" in esmerge(*gc).out
    assert version_numbers(store, "pets") == [1, 3]


def test_gc_keeps_what_is_young_by_default(store: Location, esmerge: Command) -> None:
    assert json.loads(esmerge("gc", "--store", store, "--delete", "--json").out)["garbage"] == []


def test_a_second_gc_stops(store: Location, esmerge: Command) -> None:
    with raised_flag(store):
        outcome = esmerge("gc", "--store", store, "--delete")
        assert esmerge("gc", "--store", store).code == 0, "looking is no deletion"
    assert outcome.code == 1
    assert "another gc is running" in outcome.err


def test_gc_of_no_store_is_refused(tmp_path: Path, esmerge: Command) -> None:
    outcome = esmerge("gc", "--store", tmp_path / "absent", "--delete")
    assert outcome.code == 2
    assert "no such folder" in outcome.err
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("7d", timedelta(7)),
        ("12h", timedelta(hours=12)),
        ("0s", timedelta(0)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_ages(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 d", "1y", "1e3d", "9999999d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(InputError, match="such as 7d, 12h"):
        parse_age(text)
