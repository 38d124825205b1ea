"""``esmerge export``: what it writes and says, and what it refuses."""

from pathlib import Path

import pytest
from published import TASKS, publish, published_experts
from services import Command

from esm_core.artifacts import Version


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return published_experts(tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("version")
def test_export_writes_an_adapter_per_task(esmerge: Command, tmp_path: Path) -> None:
    done = esmerge("export", "pets", "--store", tmp_path / "store", "--out", tmp_path / "out", "--peft")
    assert (done.code, done.err) == (0, "")
    names = ("README.md", "adapter_config.json", "adapter_model.safetensors")
    assert files(tmp_path / "out") == [f"{task}/{name}" for task in TASKS for name in names]
    for task in TASKS:
        assert f"/out/{task}: 7 matrices in low rank, 12 parameters of norms" in done.out
    assert done.out.count("left out: nothing") == len(TASKS)


@pytest.mark.usefixtures("version")
def test_export_writes_a_dense_model_of_a_version(esmerge: Command, tmp_path: Path) -> None:
    where = ("--store", tmp_path / "store", "--out", tmp_path / "out")
    done = esmerge("export", "pets", "v000001", *where, "--task", "dogs")
    assert (done.code, done.err) == (0, "")
    assert files(tmp_path / "out") == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert "wrote the expert of dogs of pets v000001 to " in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --peft, or --task with the name of a task."),
        (("--peft", "--task", "dogs"), "give --peft, or --task with the name of a task."),
        (("--task", "birds"), "no expert for task 'birds'; there are cats, dogs, maps."),
        (("7", "--peft"), "has no published version v000007."),
    ],
)
@pytest.mark.usefixtures("version")
def test_export_refuses_with_one_message(
    options: tuple[str, ...], said: str, esmerge: Command, tmp_path: Path
) -> None:
    outcome = esmerge("export", "pets", "--store", tmp_path / "store", "--out", tmp_path / "out", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("esmerge: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--peft",), ("--task", "dogs")])
def test_export_needs_experts_and_an_empty_folder(
    options: tuple[str, ...], esmerge: Command, tmp_path: Path
) -> None:
    publish(tmp_path, {"model/open_clip_config.json": b"{}"})
    command = ("export", "pets", "--store", tmp_path / "store", *options, "--out")
    outcome = esmerge(*command, tmp_path / "out")
    message = "pets v000001 was published without experts; merge with `experts:` in the recipe."
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"esmerge: {message}\n")
    outcome = esmerge(*command, tmp_path / "store")
    assert outcome.code == 2
    assert "store: is not empty. Give a folder that is empty or does not exist." in outcome.err
