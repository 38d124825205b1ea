"""Help that teaches, and docs/cli.md, which is made from it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from services import Command

from esmerge.cli import COMMANDS, app
from esmerge.failures import EXIT_CODES
from esmerge.reference import ENVIRONMENT, reference

ROOT = Path(__file__).parents[2]
GROUP: Any = typer.main.get_command(app)
NAMES = sorted(GROUP.commands)


def test_the_page_of_commands_is_made_from_the_commands() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == reference(), "run: python -m esmerge.reference > docs/cli.md"
    assert re.findall(r"^### esmerge (\S+)$", written, re.M) != []
    assert sorted(re.findall(r"^### esmerge (\S+)$", written, re.M)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_sentence_and_every_argument_its_help(name: str) -> None:
    command = GROUP.commands[name]
    assert re.match(r"[A-Z][^.]+\.", command.help), command.help
    assert [param.name for param in command.params if not param.help] == []
    assert "--json" in [option for param in command.params for option in param.opts]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples_that_can_be_typed(name: str) -> None:
    command = GROUP.commands[name]
    lines = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("$ ")]
    assert lines, f"esmerge {name} has no example"
    for line in lines:
        words = shlex.split(re.split(r" > ", line[2:])[0].replace(r"\[", "["), comments=True)
        assert words[:2] == ["esmerge", name]
        with command.make_context(name, words[2:]):  # parses and raises where an option is not there
            pass


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_what_is_printed_as_json_is_json(command: Any) -> None:
    json.loads(command.json)


def test_the_help_groups_the_commands_and_names_the_exit_codes(
    esmerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = esmerge("--help")
    assert (shown.code, shown.err, "\x1b" in shown.out) == (0, "", False)
    panels = [
        shown.out.index(f" {name} ─") for name in ("Merge", "Published versions", "Registry", "Operations")
    ]
    assert panels == sorted(panels)
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in shown.out
    one = esmerge("merge", "--help")
    assert "Examples:" in one.out
    assert "$ esmerge merge recipe.yaml" in one.out


def test_the_version_is_printed(esmerge: Command) -> None:
    assert re.fullmatch(r"esmerge \d+\.\d+\.\d+\S*\n", esmerge("--version").out)


def test_what_is_read_from_the_environment_is_documented() -> None:
    documented = {name for names in ENVIRONMENT for name in names.split(", ")}
    for package in ("esm_core", "tasks", "flows", "esmerge"):
        for path in (ROOT / package).rglob("*.py"):
            assert set(re.findall(r'"(ESMERGE_[A-Z_]+)"', path.read_text())) <= documented, path


def test_the_commands_are_there_before_torch_is() -> None:
    """Else help, completion and listings take seconds."""
    probe = "import sys, esmerge.cli, esm_core.artifacts, esm_core.gc.delete; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"torch", "open_clip", "prefect", "zarr", "s3fs"} & set(done.stdout.split()) == set()
