"""The process of a merge is killed at ten random moments: what runs next completes it, to the same bytes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import start_command
from services import Command
from world import World, weight_files

from esm_core.artifacts import version_numbers

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10


@pytest.mark.usefixtures("prefect_server")
def test_a_merge_killed_at_random_moments(make_world: Callable[..., World], esmerge: Command) -> None:
    undisturbed = make_world("undisturbed")
    undisturbed.recipe |= {"experts": {"rank": 4}, "alpha": "label_free"}
    untouched = [undisturbed.copied_to(undisturbed.root.parent / f"killed-{n}") for n in range(2 * KILLS)]
    length = kill_after(undisturbed.recipe_path, None)
    expected = weight_files(undisturbed.store, "pets")
    moments, killed = random.Random(4), 0
    while killed < KILLS:
        assert untouched, f"only {killed} of {2 * KILLS} merges lasted until they were killed"
        world = untouched.pop()
        # One moment from each tenth of the run, so that every stage has its chance.
        seconds = length * (killed + moments.random()) / KILLS
        took = kill_after(world.recipe_path, seconds)
        before = version_numbers(world.store, "pets")
        assert esmerge("merge", world.recipe_path).code == 0
        assert weight_files(world.store, "pets") == expected, f"killed after {seconds:.2f} s"
        assert len(version_numbers(world.store, "pets")) == max(1, len(before))
        if took < 0:
            killed += 1
        else:
            length = took  # the machine is faster now


def kill_after(recipe: Path, seconds: float | None) -> float:
    """Run the command, killed so long after its first word; negative, or how long it took if it ended."""
    output = recipe.with_name("output")
    run = start_command(output, "merge", recipe, "--workers", 2)
    while run.is_alive() and not (output.exists() and "surveyed" in output.read_text()):
        time.sleep(0.002)
    started = time.monotonic()
    run.join(seconds)
    if run.is_alive():
        run.kill()
        run.join()
    assert "surveyed" in output.read_text(), output.read_text()
    if run.exitcode == -signal.SIGKILL:
        return -1.0
    assert run.exitcode == 0, output.read_text()
    return time.monotonic() - started
