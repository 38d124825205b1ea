"""A merge that is killed, at any stage, is completed by running it again, to the same bytes."""

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import start_command
from services import Command
from undisturbed import Undisturbed, undisturbed
from world import World

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.server, pytest.mark.fault]

STAGES = {
    "collecting": ("tasks.merge", "collect_task", 3),
    "merging": ("tasks.merge", "merge_one", 5),
    "inside a layer, before its marker": ("esm_core.layer_merges", "write_marker", 4),
    "searching alpha": ("tasks.merge", "score", 8),
    "searching alpha, before the choice is kept": ("tasks.merge", "keep_choice", 1),
    "publishing, before the manifest": ("esm_core.artifacts", "_render", 1),
    "making experts": ("tasks.merge", "decompose_one", 4),
    "inside experts, before their marker": ("esm_core.experts.stage_decompose", "write_marker", 3),
    "fitting the router of experts": ("tasks.merge", "fit_router", 1),
    "assembling experts, before the marker": ("esm_core.routing.assemble", "write_marker", 1),
}


def files(store: Path, pattern: str) -> dict[str, tuple[int, str]]:
    """Change time and sha256 of the files of a store that match a pattern."""
    return {
        str(path.relative_to(store)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(store.glob(pattern))
    }


def finished(store: Path) -> dict[str, tuple[int, str]]:
    """What says that a part of the work is done: markers and scores."""
    return files(store, "**/complete.json") | files(store, "scores/*.json")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_merge_resumes_to_the_same_bytes(
    make_world: Callable[..., World],
    esmerge: Command,
    undisturbed: Undisturbed,
    tmp_path: Path,
    stage: str,
) -> None:
    world = make_world("killed", test=False)
    settings: dict[str, Any] = {"experts": {"rank": 4}} if "experts" in stage else {"alpha": "label_free"}
    world.recipe |= settings
    whole, store = undisturbed(settings), world.root / "store"
    killed = start_command(
        tmp_path / "output", "merge", world.recipe_path, "--workers", 1, dies=STAGES[stage]
    )
    killed.join(240)
    assert killed.exitcode == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert not list(store.glob("artifacts/*/*/manifest.json"))
    done = finished(store)
    assert done
    assert len(done) < len(finished(whole)) or "publishing" in stage

    assert esmerge("merge", world.recipe_path).code == 0
    after = finished(store)
    assert {name: after[name] for name in done} == done, "a finished stage was done again"
    (published,) = store.glob("artifacts/pets/v*/manifest.json")
    weights = files(published.parent, "*/*.safetensors")
    (expected,) = whole.glob("artifacts/pets/v*/manifest.json")
    expected_weights = files(expected.parent, "*/*.safetensors")
    assert len(weights) == 1 + ("experts" in stage)
    assert {n: sha for n, (_, sha) in weights.items()} == {n: sha for n, (_, sha) in expected_weights.items()}


@pytest.mark.usefixtures("prefect_server")
def test_a_reader_sees_no_version_that_was_only_claimed(world: World, esmerge: Command) -> None:
    claimed = world.root / "store" / "artifacts" / "pets" / "v000001"
    claimed.mkdir(parents=True)
    (claimed / "claim.json").write_text("{}")
    assert esmerge("versions", "--store", world.store, "pets", "--json").out.strip() == "[]"
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0
    assert "published pets v000002" in merged.out


@pytest.mark.usefixtures("prefect_server")
def test_a_changed_input_recomputes_only_what_it_touches(world: World, esmerge: Command) -> None:
    assert esmerge("merge", world.recipe_path).code == 0
    store = world.root / "store"
    shifts = files(store, "shifts/*/complete.json")
    world.recipe["alpha"] = 1.0
    assert esmerge("merge", world.recipe_path).code == 0
    assert len(list(store.glob("merges/*"))) == 1, "alpha is no reason to merge layers again"
    assert len(list(store.glob("artifacts/pets/v*/manifest.json"))) == 2
    world.recipe["tasks"] = world.recipe["tasks"][:2]
    bases = files(store, "bases/*/*")
    merged = esmerge("merge", world.recipe_path)
    assert merged.code == 0
    assert files(store, "shifts/*/complete.json") == shifts
    assert len(list(store.glob("merges/*"))) == 2
    assert files(store, "bases/*/*") == bases
    assert merged.err.count("2 of 2 decompositions were in the store") == 10


@pytest.mark.usefixtures("prefect_server")
def test_two_runs_of_one_merge_at_once_do_no_harm(world: World, esmerge: Command) -> None:
    outputs = [world.root / "first", world.root / "second"]
    runs = [start_command(output, "merge", world.recipe_path) for output in outputs]
    for run, output in zip(runs, outputs, strict=True):
        run.join(240)
        assert run.exitcode == 0, output.read_text()
    weights = files(world.root / "store", "artifacts/pets/v*/model/*.safetensors")
    assert len({sha for _, sha in weights.values()}) == 1
    versions = json.loads(esmerge("versions", "--store", world.store, "pets", "--json").out)
    assert len(versions) == len(weights)
    for version in versions:
        verified = esmerge("verify", "--store", world.store, "pets", version["version"])
        assert verified.code == 0, verified.err
