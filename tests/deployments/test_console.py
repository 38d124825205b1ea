"""What a run prints to the Prefect worker that started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.stack.environment import ROOT

RUN = """
import logging, sys, threading
from prefect.logging.configuration import setup_logging

setup_logging()
log = logging.getLogger("prefect.example")

def step(number):
    log.info("step %s", number)
    with open(sys.argv[1], "a") as done:
        done.write(f"{number} ")

step(1)
sys.stdin.readline()
other = threading.Thread(target=step, args=(2,))
other.start()
other.join()
step(3)
"""


@pytest.fixture
def deployed() -> dict[str, str]:
    """The environment that deployments/prefect.yaml gives to a run of the merge."""
    content = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    found: dict[str, str] = content["definitions"]["pool"]["job_variables"]["env"]
    return found


def steps_done(folder: Path, environment: dict[str, str]) -> str:
    """What a run does whose reader goes after its first step."""
    shown = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder / "done")],
        env={**os.environ, **shown, "PREFECT_HOME": str(folder), "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    assert "step 1" in process.stderr.readline()
    process.stderr.close()
    process.stdin.close()
    process.wait(60)
    return (folder / "done").read_text()


def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path, deployed: dict[str, str]) -> None:
    assert steps_done(tmp_path, deployed) == "1 2 3 "


def test_with_the_console_of_prefect_a_step_is_lost(tmp_path: Path, deployed: dict[str, str]) -> None:
    """Where this fails, Prefect or rich has mended it: delete ``deployments.console``."""
    del deployed["PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"]
    assert "2" not in steps_done(tmp_path, deployed)
