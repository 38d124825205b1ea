"""What a merge shows of itself: bars on a terminal, lines in a pipe, nothing with --quiet; and Ctrl-C."""

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from services import Command
from world import World, build_world

from esm_core.artifacts import version_numbers
from esmerge.progress import bars, progress

log, steps = logging.getLogger("esmerge"), logging.getLogger("esmerge.steps")


def work() -> None:
    """What the tasks and the stages of a merge say."""
    for done in range(3):
        steps.debug("step", extra={"step": ("collecting", done, 2)})
    log.info("collected cats (1.0 s)")
    logging.getLogger("esm_core").warning("the disk is slow")


def test_a_pipe_gets_a_line_per_message(capsys: pytest.CaptureFixture[str]) -> None:
    with progress():
        work()
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^ +\d+\.\d s  ", "", line) for line in lines] == [
        "collected cats (1.0 s)",
        "the disk is slow",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True):
        work()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_bar_per_stage_and_warnings(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    shown = io.StringIO()
    with bars(
        Console(file=shown, force_terminal=True, width=90, color_system="truecolor" if colour else None)
    ):
        work()
    text = shown.getvalue()
    assert ("\x1b[32m2/2" in text) is colour
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"collecting +━+ 2/2 0:00:00", plain)
    assert "the disk is slow\n" in plain
    assert "collected cats" not in plain
    assert not steps.isEnabledFor(logging.DEBUG), "nothing is left behind"


def test_steps_reach_no_other_handler_than_the_bars(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG, logger="esmerge"),
        bars(Console(file=io.StringIO(), force_terminal=True)),
    ):
        work()
    assert "step" not in caplog.messages


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("progress") / "world")


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_merge_prints_one_document_and_nothing_else_when_quiet(
    shared_world: World, esmerge: Command
) -> None:
    done = esmerge("merge", shared_world.recipe_path, "--quiet", "--json")
    assert (done.code, done.err) == (0, "")
    content = json.loads(done.out)
    assert set(content) == {"published", "version", "url"}
    assert content["published"] is True
    assert json.loads(esmerge("merge", shared_world.recipe_path, "-q", "--json").out)["published"] is False


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 40 lines of 100 characters: its two ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def read_until(end: int, pattern: str, seconds: float) -> str:
    """What the terminal shows, without control sequences, once ``pattern`` is there."""
    text, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, text):
        assert time.monotonic() < deadline, text[-2000:]
        if select.select([end], [], [], 0.2)[0]:
            text += os.read(end, 65536).decode(errors="replace")
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return text


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.fault
@pytest.mark.usefixtures("prefect_server")
def test_ctrl_c_on_a_terminal_ends_with_one_line_and_the_next_run_resumes(
    tmp_path: Path, esmerge: Command, terminal: tuple[int, int]
) -> None:
    # Enough to do that it cannot be done while the server is told, which takes up to some seconds.
    world = build_world(tmp_path / "world", tasks=tuple(f"cats{number}" for number in range(16)))
    world.recipe["alpha"] = "label_free"
    ours, theirs = terminal
    command = [sys.executable, "-m", "esmerge", "merge", str(world.recipe_path), "--workers", "1"]
    environment = {**os.environ, "TERM": "xterm-256color"}

    def own_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_the_terminal
    )
    read_until(ours, r"collecting +[━╸╺]+ +[1-9]\d?/16", 90)
    os.write(ours, b"\x03")
    pressed = time.monotonic()
    text = read_until(ours, "and it resumes", 20)
    assert process.wait(20) == 130
    assert time.monotonic() - pressed < 15
    assert text.count("esmerge: ") == 1
    assert "Traceback" not in text
    assert version_numbers(world.store, "pets") == []
    again = esmerge("merge", world.recipe_path)
    assert again.code == 0, again.err
    assert "reused" in again.err
    assert version_numbers(world.store, "pets") == [1]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.fault
def test_ctrl_c_while_an_ephemeral_server_starts_leaves_no_process(tmp_path: Path) -> None:
    world = build_world(tmp_path / "world")
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "MARK": str(tmp_path)}
    command = [sys.executable, "-m", "esmerge", "merge", str(world.recipe_path), "--json"]
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not any("uvicorn" in command for command in living(process.pid)):
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert err.count("\n") == 1, err
    assert not living(process.pid)


def living(group: int) -> list[str]:
    """The command lines of a group's processes; one that has ended, and is not reaped yet, has none."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == group:
                commands.append((process / "cmdline").read_text())
    return [command for command in commands if command]
