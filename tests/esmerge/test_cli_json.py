"""With --json standard output holds one JSON document of the documented form, on errors too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from landed import land_all
from published import published_experts
from services import Command, Outcome
from versions import make_version
from world import World

from esm_core.channels import promote
from esm_core.errors import TransientStorageError
from esm_core.gc.report import Report
from esm_core.storage import Location
from esmerge.cli import COMMANDS

MANIFEST = {
    "identity": "5f0c",
    "alpha": 1.0,
    "architecture": {"name": "tiny"},
    "inputs": {"tasks": {}},
    "metrics": {"accuracy": {}},
}
Call = Callable[[World, Path], tuple[object, ...]]


def in_store(*arguments: object) -> Call:
    return lambda world, folder: (*arguments, "--store", folder / "store")


CALLS: dict[str, Call] = {
    "init": lambda world, folder: ("init", world.root, "-o", folder / "made.yaml"),
    "plan": lambda world, folder: ("plan", world.recipe_path),
    "schema": lambda world, folder: ("schema",),
    "versions": in_store("versions", "pets"),
    "show": in_store("show", "pets"),
    "verify": in_store("verify", "pets"),
    "promote": in_store("promote", "pets", "2", "--channel", "stable"),
    "rollback": in_store("rollback", "pets", "--channel", "stable", "--to", "1"),
    "channels": in_store("channels", "pets"),
    "export": lambda world, folder: (
        *(
            "export",
            "pets",
            "--store",
            published_experts(folder / "experts").folder.url.split("/artifacts")[0],
        ),
        *("--out", folder / "out", "--peft"),
    ),
    "land": lambda world, folder: (
        *("land", folder / "registry", "cats", "--checkpoint", world.root / "cats.safetensors"),
        *("--proxy", world.root / "cats/proxy"),
    ),
    "registry": lambda world, folder: ("registry", world.root / "landed"),
    "doctor": lambda world, folder: ("doctor", "--store", folder / "store"),
    "gc": in_store("gc"),
    "convert": lambda world, folder: ("convert", folder / "module.pt", folder / "module.safetensors"),
}
ELSEWHERE = {"merge", "report", "compare"}
"""Commands whose JSON other tests look at."""


@pytest.fixture
def folder(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two versions and a channel, a registry, and a pickled module."""
    store = Location.parse(str(tmp_path / "store"))
    for seed in (1, 2):
        make_version(store, seed=seed, **MANIFEST)
    promote(store, "pets", "1", "stable")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path


def keys(content: Any) -> set[str]:
    """The keys of a document, or of the first of a list or of a mapping by name."""
    return set(content[0] if isinstance(content, list) else content)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_what_is_printed_has_the_documented_form(
    name: str, world: World, folder: Path, esmerge: Command
) -> None:
    if name == "registry":
        land_all(world, Location.parse(str(world.root / "landed")))
    if name == "rollback":
        promote(Location.parse(str(folder / "store")), "pets", "2", "stable")
    done = esmerge(*CALLS[name](world, folder), "--json")
    assert done.code == 0, done
    content = json.loads(done.out)
    (known,) = [command for command in COMMANDS if command.name == name]
    documented = json.loads(known.json)
    if name in ("channels", "registry"):  # by name
        content, documented = next(iter(content.values())), next(iter(documented.values()))
    assert keys(documented) <= keys(content)


def test_no_command_is_forgotten() -> None:
    assert {command.name for command in COMMANDS} - ELSEWHERE == set(CALLS)


def error(done: Outcome) -> dict[str, Any]:
    """The one document on standard output; the same message is on standard error."""
    content: dict[str, Any] = json.loads(done.out)["error"]
    assert set(content) == {"kind", "message", "problems", "exit_code"}
    assert content["exit_code"] == done.code
    assert done.err.startswith(f"esmerge: {content['message'].splitlines()[0]}")
    assert "\x1b" not in done.err
    return content


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("show", "--nope"), "UsageError", "No such option: --nope"),
        (("nope",), "UsageError", "No such command 'nope'"),
        (("show", "pets"), "UsageError", "--store"),
        (("gc", "--store", "s", "--keep", "0"), "UsageError", "--keep"),
        (("show", "pets", "--store", "gs://bucket"), "InputError", "gs:// is not supported"),
        (("show", "a/b", "--store", "s"), "InputError", "'a/b' is not a usable name"),
        (("plan", "nowhere.yaml"), "InputError", "nowhere.yaml: no such file"),
        (("merge", "nowhere.yaml"), "InputError", "nowhere.yaml: no such file"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_document(
    esmerge: Command, arguments: tuple[str, ...], kind: str, said: str
) -> None:
    content = error(esmerge(*arguments, "--json"))
    assert (content["kind"], content["exit_code"]) == (kind, 2)
    assert said in content["message"]
    plain = esmerge(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert said in plain.err


def test_every_problem_is_an_item(world: World, esmerge: Command) -> None:
    world.recipe |= {"smaples": 1, "seed": -1}
    content = error(esmerge("plan", world.recipe_path, "--json"))
    assert len(content["problems"]) == 2


@pytest.mark.parametrize(
    ("raised", "code", "kind", "said"),
    [
        (TransientStorageError("s3://b/x: could not read it for now"), 1, "TransientStorageError", "for now"),
        (KeyboardInterrupt(), 130, "Interrupted", "run the same command again, and it resumes"),
    ],
)
def test_what_may_pass_is_exit_code_1_and_ctrl_c_is_130(
    esmerge: Command, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, kind: str, said: str
) -> None:
    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr("esm_core.artifacts.published_versions", fail)
    content = error(esmerge("versions", "pets", "--store", "s", "--json"))
    assert (content["kind"], content["exit_code"]) == (kind, code)
    assert said in content["message"]
    plain = esmerge("versions", "pets", "--store", "s")
    assert (plain.code, plain.out, plain.err.count("\n")) == (code, "", 1)


def test_what_gc_could_not_delete_is_in_its_document(
    folder: Path, esmerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(failed=["shifts/1: access refused"])
    monkeypatch.setattr("esm_core.gc.delete.delete", lambda *arguments: report)
    done = esmerge("gc", "--store", folder / "store", "--delete", "--json")
    assert (done.code, json.loads(done.out)["failed"]) == (1, ["shifts/1: access refused"])
    assert "could not delete everything" in done.err


def test_an_error_in_esmerge_is_exit_code_1_with_its_traceback(
    esmerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm_core.artifacts.published_versions", lambda *arguments: 1 / 0)
    done = esmerge("versions", "pets", "--store", "s", "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["kind"] == "ZeroDivisionError"
    assert "Traceback" in done.err


@pytest.mark.parametrize("name", ["ESMERGE_THREADS", "ESMERGE_WORKERS"])
def test_a_number_in_the_environment_that_is_none_is_bad_input(
    world: World, esmerge: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "two")
    done = esmerge("merge", world.recipe_path)
    assert (done.code, done.out, "Traceback" in done.err) == (2, "", False)
    assert name in done.err
