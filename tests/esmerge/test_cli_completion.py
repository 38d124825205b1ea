"""What the shell offers after TAB."""

import time
from pathlib import Path

import pytest
from services import Command
from versions import make_version

from esm_core.channels import promote
from esm_core.storage import Location


@pytest.fixture
def store(tmp_path: Path) -> Location:
    location = Location.parse(str(tmp_path / "store"))
    for seed in (1, 2):
        make_version(location, seed=seed)
    make_version(location, name="plants")
    promote(location, "pets", "1", "stable")
    return location


def offered(esmerge: Command, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("_ESMERGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    done = esmerge()
    assert done.err == ""
    return done.out.split()


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("show --store STORE ", ["pets", "plants"]),
        ("show --store STORE pl", ["plants"]),
        ("show --store STORE pets ", ["latest", "stable", "v000002", "v000001"]),
        ("verify --store STORE pets v", ["v000002", "v000001"]),
        ("promote --store STORE pets 2 --channel ", ["stable"]),
        ("show --store STORE ../x ", []),
        ("show --store gs://x ", []),
        ("show ", []),
        ("ver", ["versions", "verify"]),
        ("merge --qu", ["--quiet"]),
    ],
)
def test_what_is_in_the_store_is_offered(
    esmerge: Command, monkeypatch: pytest.MonkeyPatch, store: Location, typed: str, found: list[str]
) -> None:
    line = f"esmerge {typed.replace('STORE', store.path)}"
    assert sorted(offered(esmerge, monkeypatch, line)) == sorted(found)


def test_a_store_that_does_not_answer_keeps_nobody_waiting(
    esmerge: Command, monkeypatch: pytest.MonkeyPatch, store: Location
) -> None:
    monkeypatch.setattr("esmerge.completion.SECONDS", 0.1)
    monkeypatch.setattr(Location, "children", lambda self: time.sleep(2) or ["late"])
    started = time.monotonic()
    assert offered(esmerge, monkeypatch, f"esmerge show --store {store.path} ") == []
    assert time.monotonic() - started < 1.5


def test_the_script_for_the_shell_is_printed(esmerge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ESMERGE_COMPLETE", "source_bash")
    assert "complete -o default -F _esmerge_completion esmerge" in esmerge().out
