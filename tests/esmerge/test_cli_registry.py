"""land and registry: fine-tunes into the registry, and what is in it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from landed import land_all
from services import Command, S3Server
from world import World

from esm_core.registry import read_finetune, tasks, versions
from esm_core.storage import Location


def options(world: World, name: str, *fields: str) -> list[str]:
    spec = world.task(name)
    return [part for field in fields for part in (f"--{field}", str(world.root / spec[field]))]


ALL = ("checkpoint", "proxy", "test", "head")


def test_a_fine_tune_lands_and_is_listed(world: World, esmerge: Command) -> None:
    registry = world.root / "registry"
    landed = esmerge("land", registry, "cats", *options(world, "cats", *ALL), "--note", "lr 1e-5")
    assert (landed.code, landed.err) == (0, "")
    assert landed.out.splitlines()[0] == f"landed cats v000001 at file://{registry}/cats/v000001"
    again = esmerge("land", registry, "cats", *options(world, "cats", *ALL))
    assert (again.code, again.out.strip()) == (
        0,
        "nothing landed: cats v000001 holds the same (--force lands it again)",
    )
    forced = esmerge("land", registry, "cats", *options(world, "cats", *ALL), "--force", "--json")
    assert json.loads(forced.out) == {
        "landed": True,
        "task": "cats",
        "version": "v000002",
        "url": f"file://{registry}/cats/v000002",
    }
    listed = json.loads(esmerge("registry", registry, "--json").out)
    assert [row["version"] for row in listed["cats"]] == ["v000001", "v000002"]
    assert listed["cats"][0]["sha256"] == Location.parse(str(world.root / "cats.safetensors")).sha256()
    assert esmerge("registry", registry).out.startswith("cats  v000001  20")
    assert "lr 1e-5" in esmerge("registry", registry).out
    assert "holds no fine-tune" in esmerge("registry", world.root / "nowhere").out


def test_class_names_come_from_a_text_or_a_yaml_file(world: World, esmerge: Command) -> None:
    registry, lines, yaml = world.root / "registry", world.root / "names.txt", world.root / "names.yaml"
    lines.write_text("a cat\n\n a dog \na map\n")
    yaml.write_text("classes: [a, b, c]\ntemplates: ['art of a {}.']\n")
    given = options(world, "cats", "checkpoint", "proxy", "test")
    assert esmerge("land", registry, "cats", *given, "--classes", lines).code == 0
    assert esmerge("land", registry, "cats", *given, "--zero-shot", yaml).code == 0
    first, second = (
        read_finetune(Location.parse(str(registry)), "cats", number).zero_shot for number in (1, 2)
    )
    assert first is not None
    assert second is not None
    assert first.classes == ["a cat", "a dog", "a map"]
    assert second.templates == ["art of a {}."]
    yaml.write_text("classes: [a, b, c]\nnames: 1\n")
    refused = esmerge("land", registry, "cats", *given, "--zero-shot", yaml)
    assert (refused.code, "names.yaml: names: unknown key" in refused.err) == (2, True)


def test_every_problem_is_told_before_anything_is_uploaded(world: World, esmerge: Command) -> None:
    (world.root / "cats/proxy/0.png").write_bytes(b"")
    registry = world.root / "registry"
    given = options(world, "cats", "checkpoint", "proxy", "test")
    refused = esmerge("land", registry, "a/b", *given, "--base", world.root / "nothing.safetensors")
    assert refused.code == 2
    assert "4 problems:" in refused.err
    for part in (
        "'a/b' is not a usable name",
        "nothing.safetensors: no such file",
        "'0.png' cannot be decoded",
    ):
        assert part in refused.err
    assert "images are given without a head" in refused.err
    assert not registry.exists()
    assert esmerge("land", registry, "cats", *given, "--activation", "relu").code == 2


def test_plan_shows_what_a_registry_holds(world: World, esmerge: Command) -> None:
    land_all(world, Location.parse(str(world.root / "registry")))
    planned = esmerge("plan", world.recipe_path, "--json")
    assert planned.code == 0, planned.err
    content = json.loads(planned.out)["tasks"]
    assert {
        name: task["checkpoint"].removeprefix(f"file://{world.root}/") for name, task in content.items()
    } == {name: f"registry/{name}/v000001/checkpoint.safetensors" for name in ("cats", "dogs", "maps")}


# Dies by SIGKILL when everything but finetune.yaml is there.
DYING_LANDING = """
import os, signal, sys
from esm_core.registry import landing
landing.render = lambda finetune: os.kill(os.getpid(), signal.SIGKILL)
from esmerge.cli import main
sys.argv = ["esmerge", "land", *sys.argv[1:]]
main()
"""


def _die_before_the_end(registry: Location, *given: str) -> None:
    command = [sys.executable, "-c", DYING_LANDING, registry.url, "cats", *given]
    died = subprocess.run(command, env=dict(os.environ), capture_output=True, check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]


def _half_landed_is_unseen(world: World, esmerge: Command, registry: Location) -> None:
    given = options(world, "cats", *ALL)
    _die_before_the_end(registry, *given)
    assert (registry / "cats/v000001/checkpoint.safetensors").is_file()
    assert (tasks(registry), versions(registry, "cats")) == ([], [])
    assert json.loads(esmerge("registry", registry.url, "--json").out) == {}
    again = esmerge("land", registry.url, "cats", *given)
    assert "landed cats v000002" in again.out, again.err
    assert versions(registry, "cats") == [2]


@pytest.mark.fault
def test_a_landing_that_is_killed_is_unseen_and_lands_when_repeated(
    world: World, esmerge: Command, tmp_path: Path
) -> None:
    _half_landed_is_unseen(world, esmerge, Location.parse(str(tmp_path / "registry")))


@pytest.mark.fault
@pytest.mark.s3
def test_a_landing_on_s3_that_is_killed(world: World, esmerge: Command, s3: S3Server) -> None:
    _half_landed_is_unseen(world, esmerge, s3.bucket() / "registry")
