"""The plan command: what a merge would do, from headers and listings, leaving no trace."""

import copy
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load
from services import Command
from world import World, add_validation, build_world, write_image

from deployments.local import run_merge
from esm_core.checkpoints import SafetensorsFile, TorchFile
from esm_core.images import ImageSource
from esm_core.storage import Location


def plan_of(esmerge: Command, world: World) -> dict[str, Any]:
    outcome = esmerge("plan", world.recipe_path, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    content: dict[str, Any] = json.loads(outcome.out)
    return content


def read_table(text: str) -> list[str]:
    """The table's rows as text, each with the lines that its cells were wrapped to put together."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if "│" not in line:
            continue
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    return [" | ".join(row) for row in rows]


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size if path.is_file() else 0)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def merged(world: World, prefect_server: str) -> World:
    run_merge(str(world.recipe_path), 2)
    return world


@pytest.fixture(scope="module")
def merged_once(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    world = build_world(tmp_path_factory.mktemp("merged") / "world")
    run_merge(str(world.recipe_path), 2)
    return world


@pytest.fixture
def shared(merged_once: World) -> World:
    """A merged world whose files stay as they are; its recipe may be changed."""
    return World(merged_once.root, copy.deepcopy(merged_once.recipe))


def test_a_plan_writes_nothing(world: World, esmerge: Command) -> None:
    recipe = world.recipe_path
    before = everything(world.root)
    assert esmerge("plan", recipe).code == 0
    assert esmerge("plan", recipe, "--json").code == 0
    assert everything(world.root) == before
    assert not (world.root / "store").exists()


@pytest.mark.server
def test_a_plan_of_what_was_merged_writes_nothing(shared: World, esmerge: Command) -> None:
    recipe = shared.recipe_path
    before = everything(shared.root)
    assert esmerge("plan", recipe).code == 0
    assert everything(shared.root) == before


def test_before_a_merge_nothing_is_inspected(world: World, esmerge: Command) -> None:
    text = esmerge("plan", world.recipe_path).out
    rows = read_table(text)
    assert [row.split(" | ")[0] for row in rows] == ["cats", "dogs", "maps"]
    assert all(row.endswith("not inspected yet") for row in rows)
    assert "merged already: unknown" in text
    assert "up to date" not in text
    assert "placeholder (the base has none)" in text


@pytest.mark.server
def test_after_a_merge_it_is_cached_and_up_to_date(shared: World, esmerge: Command) -> None:
    text = esmerge("plan", shared.recipe_path).out
    assert all(row.endswith("| cached") for row in read_table(text))
    assert "merged already: 10" in text
    assert "up to date: v000001 was published from exactly this" in text


def test_json_tells_sizes_layouts_and_estimates(world: World, esmerge: Command) -> None:
    content = plan_of(esmerge, world)
    assert (content["name"], content["store"]) == ("pets", world.store.url)
    assert content["activation"] == "gelu"
    assert content["up_to_date"] is content["layers_merged"] is content["static_done"] is None
    for name, task in content["tasks"].items():
        path = world.root / f"{name}.safetensors"
        assert task["checkpoint"] == path.as_uri()
        assert task["bytes"] == path.stat().st_size
        assert task["proxy_images"] == 4
        assert task["layout"].startswith("open_clip")
        assert task["activation_source"] == "assumed from the architecture"
        assert task["collected"] is None
    weights = load((world.root / "base.safetensors").read_bytes())
    assert sum(content["weights"].values()) == len(weights)
    estimates = content["estimates"]
    assert estimates["checkpoint_bytes"] == sum(task["bytes"] for task in content["tasks"].values())
    assert estimates.pop("expert_bytes") == 0, "none are asked for"
    assert all(value > 0 for value in estimates.values())


@pytest.mark.server
def test_estimates_are_what_a_merge_leaves_in_the_store(shared: World, esmerge: Command) -> None:
    estimates = plan_of(esmerge, shared)["estimates"]
    store = shared.root / "store"
    shifts = sum(path.stat().st_size for path in store.glob("shifts/*/*/factor/c/**/*") if path.is_file())
    bases = sum(path.stat().st_size for path in store.glob("bases/*/*.safetensors"))
    updates = sum(path.stat().st_size for path in store.glob("merges/*/*/update/c/**/*") if path.is_file())
    assert estimates["shift_store_bytes"] == pytest.approx(shifts, rel=0.1)
    assert estimates["basis_store_bytes"] == pytest.approx(bases, rel=0.15), (
        "headers are a part of small files"
    )
    assert updates <= estimates["merge_store_bytes"] <= 1.3 * updates


@pytest.mark.server
def test_the_split_of_weights_is_that_of_the_merge(shared: World, esmerge: Command) -> None:
    content = plan_of(esmerge, shared)
    assert content["weights"] == {"essential": 6, "tsv_m": 4, "mean": 22}
    done = list((shared.root / "store").glob("merges/*/*/complete.json"))
    assert content["layers_merged"] == len(done) == 10
    assert content["static_done"] is True
    assert content["up_to_date"] == "v000001"


@pytest.mark.server
def test_another_alpha_keeps_everything_but_the_last_stage(shared: World, esmerge: Command) -> None:
    shared.recipe["alpha"] = 1.0
    content = plan_of(esmerge, shared)
    assert all(task["collected"] is True for task in content["tasks"].values())
    assert (content["layers_merged"], content["static_done"], content["up_to_date"]) == (10, False, None)


@pytest.mark.parametrize("method", ["label_free", "validation"])
def test_a_plan_says_that_alpha_is_to_be_searched_and_what_it_costs(
    world: World, esmerge: Command, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("esm_core.preview.measured_rate", lambda: 1e9)
    fixed = plan_of(esmerge, world)
    assert (fixed["alpha"], fixed["alpha_value"]) == (2.0, 2.0)
    assert "alpha: 2.0\n" in esmerge("plan", world.recipe_path).out
    add_validation(world)
    world.recipe["alpha"] = method
    searched = plan_of(esmerge, world)
    assert (searched["alpha"], searched["alpha_value"]) == (method, None)
    assert searched["estimates"]["core_seconds"] > fixed["estimates"]["core_seconds"]
    assert f"alpha: {method} (not searched yet)" in esmerge("plan", world.recipe_path).out


@pytest.mark.server
def test_more_proxies_are_not_inspected_yet(shared: World, esmerge: Command) -> None:
    shared.recipe["samples"] = 5
    content = plan_of(esmerge, shared)
    assert all(task["proxy_images"] == 5 for task in content["tasks"].values())
    assert all(task["collected"] is None for task in content["tasks"].values())
    assert content["up_to_date"] is None


@pytest.mark.server
def test_an_input_that_changed_is_not_inspected_yet(merged: World, esmerge: Command) -> None:
    write_image(merged.root / "dogs" / "proxy" / "0.png", seed=77)
    assert plan_of(esmerge, merged)["up_to_date"] is None


@pytest.mark.server
def test_plan_believes_the_manifest_but_merge_replaces_a_damaged_publication(
    merged: World, esmerge: Command
) -> None:
    (merged.root / "store" / "artifacts" / "pets" / "v000001" / "README.md").write_text("other")
    assert plan_of(esmerge, merged)["up_to_date"] == "v000001"
    again = esmerge("merge", merged.recipe_path)
    assert again.code == 0, again.err
    assert "published pets v000002" in again.out


def test_the_activation_says_where_it_is_known_from(world: World, esmerge: Command) -> None:
    world.task("dogs")["activation"] = "gelu"
    tasks = plan_of(esmerge, world)["tasks"]
    assert tasks["dogs"]["activation_source"] == "the recipe"
    assert tasks["cats"]["activation_source"] == "assumed from the architecture"


def test_a_torch_file_is_planned_too(world: World, esmerge: Command) -> None:
    torch.save(load((world.root / "dogs.safetensors").read_bytes()), world.root / "dogs.pt")
    world.task("dogs")["checkpoint"] = "dogs.pt"
    assert plan_of(esmerge, world)["tasks"]["dogs"]["bytes"] == (world.root / "dogs.pt").stat().st_size


@pytest.mark.server
@pytest.mark.parametrize("known", [False, True], ids=["never merged", "merged"])
def test_a_plan_reads_no_weight_and_no_image(
    world: World,
    esmerge: Command,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    known: bool,
) -> None:
    if known:
        request.getfixturevalue("merged")
    torch.save(load((world.root / "maps.safetensors").read_bytes()), world.root / "maps.pt")

    def fail(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError(f"read {arguments}")

    read: list[tuple[str, int]] = []
    read_bytes = Location.read_bytes

    def record(self: Location, start: int | None = None, end: int | None = None) -> bytes:
        data = read_bytes(self, start, end)
        read.append((self.name, (start or 0) + len(data)))
        return data

    for kind in (SafetensorsFile, TorchFile):
        monkeypatch.setattr(kind, "read", fail)
    for method in ("read", "read_all"):
        monkeypatch.setattr(ImageSource, method, fail)
    monkeypatch.setattr(Location, "read_bytes", record)
    assert plan_of(esmerge, world)["up_to_date"] == ("v000001" if known else None)
    world.task("maps")["checkpoint"] = "maps.pt"
    assert plan_of(esmerge, world)["up_to_date"] is None
    for name, end in read:
        assert not name.endswith(".png")
        if name.endswith(".safetensors"):
            header = int.from_bytes((world.root / name).read_bytes()[:8], "little")
            assert end <= max(8 + header, 512)


def test_help_says_that_a_plan_changes_nothing(esmerge: Command) -> None:
    assert re.search(r"Changes\s+nothing", esmerge("plan", "--help").out)
