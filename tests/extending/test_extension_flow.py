"""The three files of docs/extending.md in a whole merge: installed beside esmerge, and put into it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from acme import FILES, Installed, source
from acme_world import acme_world, own_world
from safetensors.torch import load_file, save_file
from whole_merge import merge_whole, planned
from world import World, weight_files

import esm_core
from esm_core.artifacts import open_version
from esm_core.errors import InputError
from esm_core.evaluate import EvaluationJob, evaluation_file
from esm_core.model_card import accuracy_rows
from esm_core.plan import load_plan, plan_file
from esm_core.recipe_file import load_recipe
from esm_core.stage_collect import collect_task
from esm_core.survey import survey

ROOT = Path(__file__).parents[2]
Ready = tuple[Installed, World, dict[str, Any]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What the merge gives of open_clip's names and PNG files."""
    world = own_world(tmp_path_factory.mktemp("own") / "world")
    merge_whole(world)
    return world


def test_a_merge_through_three_extensions_publishes_the_same_model(
    acme: Installed, own: World, tmp_path: Path
) -> None:
    world = acme_world(tmp_path / "world")
    _, version = merge_whole(world)
    assert weight_files(world.store, "pets") == weight_files(own.store, "pets")
    accuracy = version.manifest["metrics"]["accuracy"]
    header, _ = accuracy_rows(accuracy)
    assert header == ["task", "Base", "Experts", "Average", "TIES", "ESM"]
    before = open_version(own.store, "pets").manifest["metrics"]["accuracy"]
    assert {method: accuracy[method] for method in before} == before
    assert "| TIES |" in (version.folder / "README.md").read_bytes().decode()
    assert version.manifest["libraries"]["acme-esmerge"] == "1.0"
    code = version.manifest["inputs"]["tasks"]["cats"]["checkpoint"]["code"]
    assert (code["distribution"], code["version"]) == ("acme-esmerge", "1.0")


def test_without_the_package_each_part_is_refused_with_what_there_is(tmp_path: Path) -> None:
    world = acme_world(tmp_path / "world")
    with pytest.raises(
        InputError, match=r"compare\[1\]\.method: there is no merge method 'ties'; there are .*tsv_m"
    ):
        load_recipe(str(world.recipe_path))
    world.recipe["compare"] = []
    recipe = load_recipe(str(world.recipe_path))
    with pytest.raises(InputError) as caught:
        survey(recipe)
    told = str(caught.value)
    assert "cats.safetensors: holds no vision tower esmerge knows: its first names are blocks.0" in told
    assert "proxy.npz: is neither an image folder nor a .parquet or .tar file" in told


def test_a_half_fine_tune_of_timm_is_refused_by_name(acme: Installed, tmp_path: Path) -> None:
    world = acme_world(tmp_path / "world")
    path = world.root / "cats.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "blocks.0.ls1.gamma": tensors["norm.weight"].clone()}, path)
    recipe = load_recipe(str(world.recipe_path))
    with pytest.raises(
        InputError, match=r"task cats: .*cats.safetensors: blocks\.0\.ls1\.gamma is no part of"
    ):
        survey(recipe)


# Other code under the same names.


@pytest.fixture
def ready(acme: Installed, tmp_path: Path) -> Ready:
    world = acme_world(tmp_path / "world")
    return acme, world, names(world)


def names(world: World) -> dict[str, Any]:
    """Where a merge keeps what it makes."""
    plan = planned(world)
    jobs = {name: EvaluationJob(method=name, tasks=["cats"]) for name in ("average", "ties", "esm")}
    return {
        "version": plan.identity,
        "merge": plan.merge_digest,
        **{name: evaluation_file(plan, job, "cats").name for name, job in jobs.items()},
        "proxies": plan.task("cats").facts.proxies_sha256,
    }


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_an_updated_method_is_measured_again_and_nothing_else_is(
    ready: Ready,
) -> None:
    acme, world, before = ready
    assert names(world) == before
    acme.change("ties.py", "KEPT = 0.2", "KEPT = 0.3")
    assert differing(before, names(world)) == {"version", "ties"}


def test_a_new_version_of_the_package_counts_as_other_code(
    ready: Ready,
) -> None:
    acme, world, before = ready
    acme.write(version="1.1")
    # Checkpoints and images are read again; what is read is the same.
    assert differing(before, names(world)) == {"version", "ties"}


def test_a_scheme_that_reads_other_tensors_makes_another_merge(
    ready: Ready,
) -> None:
    acme, world, before = ready
    acme.change("timm_clip.py", "parts[0].squeeze(0).squeeze(0)", "parts[0].squeeze(0).squeeze(0) + 1")
    assert differing(before, names(world)) == {"version", "merge", "average", "ties", "esm"}


def test_a_source_that_reads_other_images_makes_another_merge(
    ready: Ready,
) -> None:
    acme, world, before = ready
    acme.change("npz_images.py", "image.tobytes()", "(255 - image).tobytes()")
    after = names(world)
    assert differing(before, after) == {"version", "merge", "average", "ties", "esm", "proxies"}


def test_a_worker_with_other_code_refuses_the_checkpoint(
    ready: Ready,
) -> None:
    acme, world, _ = ready
    plan = planned(world)
    acme.change("timm_clip.py", "CLIP vision", "vision")
    with pytest.raises(
        InputError, match=r"task cats: .*was inspected with acme-esmerge 1\.0, which is not what"
    ):
        collect_task(plan, "cats")


def test_a_worker_without_the_package_says_what_is_missing(ready: Ready) -> None:
    acme, world, _ = ready
    world.recipe["compare"] = [{"method": "ties"}]
    url = plan_file(planned(world)).url
    acme.write(points={})
    with pytest.raises(
        InputError, match=r"plans/\w+\.json: cannot be used here: recipe\.compare\.0\.method: .*'ties'"
    ):
        load_plan(url)


# In esmerge's own folders.

IN_TREE = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from acme_world import acme_world
from whole_merge import merge_whole
import esm_core
world = acme_world(Path(sys.argv[1]))
_, version = merge_whole(world)
assert esm_core.__file__.startswith(sys.argv[2])
print(version.folder.path)
"""


@pytest.mark.slow
def test_the_same_files_in_the_folders_of_esmerge_do_the_same(own: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(esm_core.__file__).parent, tree / "esm_core", ignore=ignored)
    for file, folder in FILES.items():
        (tree / "esm_core" / folder / file).write_text(source(file))
    path = [str(tree), str(ROOT / "tests"), str(ROOT / "tests/extending")]
    root = tmp_path / "world"
    code = f"import sys; sys.path[:0] = {path!r}\n{IN_TREE}"
    done = subprocess.run([sys.executable, "-c", code, str(root), str(tree)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    store = World(root).store
    assert weight_files(store, "pets") == weight_files(own.store, "pets")
    assert "ties" in open_version(store, "pets").manifest["metrics"]["accuracy"]


@pytest.mark.slow
@pytest.mark.server
def test_the_command_merges_through_them_too(
    acme: Installed, own: World, prefect_server: str, esmerge: Any, tmp_path: Path
) -> None:
    world = acme_world(tmp_path / "world")
    done = esmerge("merge", world.recipe_path)
    assert done.code == 0, done.err
    assert weight_files(world.store, "pets") == weight_files(own.store, "pets")
    assert "TIES" in done.out
    schema = json.loads(esmerge("schema").out)["$defs"]["CompareSpec"]["properties"]["method"]
    assert "ties" in schema["enum"]
    assert "ties: TIES (Yadav et al." in schema["description"]
