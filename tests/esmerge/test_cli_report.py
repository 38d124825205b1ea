"""``esmerge report`` and ``esmerge compare``: what they write and say, and what they refuse."""

import json
from pathlib import Path

import pytest
from published import published_experts
from reports import analysis, manifest
from services import Command

from esm_core.artifacts import Manifest, bytes_writer, publish_version
from esm_core.report.page import render_report
from esm_core.storage import Location

_OWN = ("format", "name", "version", "created", "files")


@pytest.fixture
def store(tmp_path: Path) -> Location:
    """Two versions of pets with reports; dogs fell in the second, and its seed is another one."""
    location = Location.parse(str(tmp_path / "store"))
    first, second = manifest(parent=None), manifest()
    first["metrics"]["accuracy"]["esm"] = {"cats": 0.5, "dogs": 0.7, "maps": 0.625}
    second["recipe"]["seed"] = 3
    before: Manifest | None = None
    for content in (first, second):
        own = {key: value for key, value in content.items() if key not in _OWN}
        files = {"analysis.json": bytes_writer(analysis().content())}
        previous = before

        def page(found: Manifest, previous: Manifest | None = previous) -> dict[str, object]:
            return {"report.html": bytes_writer(render_report(found, analysis(), previous))}

        before = publish_version(location, "pets", files, own, page).manifest  # type: ignore[arg-type]
    return location


def test_report_writes_the_published_page(store: Location, esmerge: Command, tmp_path: Path) -> None:
    for version, label in (((), "v000002"), (("1",), "v000001")):
        target = tmp_path / "out" / f"{label}.html"
        done = esmerge("report", store, "pets", *version, "-o", target)
        assert (done.code, done.err) == (0, "")
        assert done.out == f"wrote the report of pets {label} to file://{target}\n"
        assert target.read_bytes() == (store / f"artifacts/pets/{label}/report.html").read_bytes()
    done = esmerge("report", store, "pets", "-o", target, "--json")
    facts = {"version": "v000002", "url": f"file://{target}", "bytes": target.stat().st_size}
    assert json.loads(done.out) == facts


def test_a_version_without_a_page_gets_one(esmerge: Command, tmp_path: Path) -> None:
    published_experts(tmp_path)
    target = tmp_path / "page.html"
    assert esmerge("report", tmp_path / "store", "pets", "-o", target).code == 0
    assert "no analysis.json" in target.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("store", "pets", "9"), "has no published version v000009"),
        (("store", "pets", "stable"), "stable"),
        (("store", "rats"), "rats: has no published version"),
        (("nowhere", "pets"), "has no published version"),
        (("store", "../pets"), "not a usable name"),
        (("gs://store", "pets"), "not supported"),
    ],
)
@pytest.mark.usefixtures("store")
def test_report_refuses_what_is_not_there(
    arguments: tuple[str, ...], said: str, esmerge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = esmerge("report", *arguments, "-o", "page.html")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_place_that_cannot_be_written_is_named(store: Location, esmerge: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "page.html", tmp_path / "folder", "/proc/none/page.html"):
        done = esmerge("report", store, "pets", "-o", target)
        assert done.code == 2, done
        assert str(target) in done.err
        assert done.err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"store", "file", "folder"}
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_damaged_page_is_refused(store: Location, esmerge: Command, tmp_path: Path) -> None:
    (store / "artifacts/pets/v000002/report.html").write_bytes(b"<html>")
    done = esmerge("report", store, "pets", "-o", tmp_path / "page.html")
    assert done.code == 2
    assert "report.html: is damaged" in done.err
    assert not (tmp_path / "page.html").exists()


def test_compare_shows_accuracy_side_by_side(store: Location, esmerge: Command) -> None:
    done = esmerge("compare", "--store", store, "pets", "1", "2")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["cats", "50.0", "62.5", "+12.5", "better"] in rows
    assert ["dogs", "70.0", "62.5", "−7.5", "worse"] in rows
    assert ["maps", "62.5", "62.5", "0.0", "same"] in rows
    assert ["mean", "60.8", "62.5", "+1.7", "mixed"] in rows
    assert ["settings", "seed", "0", "3"] in rows


def test_compare_as_json_has_every_method_and_change(store: Location, esmerge: Command) -> None:
    found = json.loads(esmerge("compare", "--store", store, "pets", "v000001", "latest", "--json").out)
    assert (found["before"], found["after"]) == ("v000001", "v000002")
    assert set(found["accuracy"]) == set(manifest()["metrics"]["accuracy"])
    esm = found["accuracy"]["esm"]
    assert esm["verdict"] == "mixed"
    assert esm["tasks"]["cats"] == {"before": 0.5, "after": 0.625, "change": 0.125, "verdict": "better"}
    assert found["changes"] == [{"area": "settings", "what": "seed", "before": "0", "after": "3"}]


def test_a_version_is_the_same_as_itself(store: Location, esmerge: Command) -> None:
    done = esmerge("compare", "--store", store, "pets", "2", "2")
    assert "Nothing that went into the two versions differs." in done.out


def test_versions_without_accuracy_compare_by_what_went_in(esmerge: Command, tmp_path: Path) -> None:
    published_experts(tmp_path)
    done = esmerge("compare", "--store", tmp_path / "store", "pets", "1", "1")
    assert done.code == 0
    assert "no accuracy that can be compared" in done.out


def test_compare_refuses_a_version_that_is_not_there(store: Location, esmerge: Command) -> None:
    done = esmerge("compare", "--store", store, "pets", "1", "9")
    assert done.code == 2
    assert "v000009" in done.err
    assert done.out == ""
