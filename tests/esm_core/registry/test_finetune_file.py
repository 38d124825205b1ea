"""finetune.yaml: what it may say, and how what it may not say is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from esm_core.errors import InputError, NewerFormatError
from esm_core.registry import read_finetune, tasks, versions
from esm_core.storage import Location

DIGEST = "0" * 64
MINIMAL: dict[str, Any] = {
    "format": 1,
    "task": "cats",
    "version": 1,
    "created": "2026-11-22T09:00:00+00:00",
    "checkpoint": "checkpoint.safetensors",
    "proxy": "s3://data/cats",
    "files": {"checkpoint.safetensors": {"bytes": 1, "sha256": DIGEST}},
}


@pytest.fixture
def registry(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path))


def write(registry: Location, content: Any) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (registry / "cats/v000001/finetune.yaml").write_bytes(text.encode())


def problem_of(registry: Location, content: Any) -> str:
    write(registry, content)
    with pytest.raises(InputError) as caught:
        read_finetune(registry, "cats", 1)
    assert str(caught.value).startswith(f"{registry}/cats/v000001/finetune.yaml: ")
    return str(caught.value)


def test_what_is_not_said_is_not_there(registry: Location) -> None:
    write(registry, MINIMAL)
    found = read_finetune(registry, "cats", 1)
    assert (found.proxy, found.head, found.zero_shot, found.activation) == (
        "s3://data/cats",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("porxy", {"porxy": "x"}),
        ("checkpoint", {"checkpoint": None}),
        ("files.a.size", {"files": {"a": {"bytes": 1, "sha256": DIGEST, "size": 1}}}),
        ("files.a.sha256", {"files": {"a": {"bytes": 1, "sha256": "abc"}}}),
        ("activation", {"activation": "relu"}),
        ("version", {"version": 0}),
        ("task", {"task": "../dogs"}),
    ],
)
def test_a_wrong_key_is_named(registry: Location, key: str, change: dict[str, Any]) -> None:
    assert f"finetune.yaml: {key}: " in problem_of(registry, MINIMAL | change)


@pytest.mark.parametrize(
    "path",
    ["../dogs/v000001/x", "/etc/passwd", "a/../../x", "a//b", "", ".", "~root/../x", "a\\b", "gs://b/x"],
)
def test_no_path_leaves_the_folder(registry: Location, path: str) -> None:
    facts = {"bytes": 1, "sha256": DIGEST}
    for change in ({"checkpoint": path}, {"proxy": path}, {"head": path}, {"files": {path: facts}}):
        problem_of(registry, MINIMAL | change)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket/a/../../x",
        "file://host/x",
        "s3:///x",
        "https://host/x",
        "file://",
    ],
)
def test_a_pointer_is_a_plain_absolute_url(registry: Location, url: str) -> None:
    problem = problem_of(registry, MINIMAL | {"proxy": url})
    assert "finetune.yaml: proxy: " in problem
    assert "secret" not in problem
    problem_of(registry, MINIMAL | {"checkpoint": "s3://elsewhere/checkpoint.safetensors"})


def test_what_is_named_is_among_the_files(registry: Location) -> None:
    assert "checkpoint: 'other' is not among files" in problem_of(registry, MINIMAL | {"checkpoint": "other"})
    assert "proxy: 'images' is not among files" in problem_of(registry, MINIMAL | {"proxy": "images"})


@pytest.mark.parametrize("text", ["", "[]", "format: one", "format: [", "task: a\ntask: b", "\x00"])
def test_text_that_is_none_is_an_input_error(registry: Location, text: str) -> None:
    problem_of(registry, text)


def test_a_newer_format_is_no_damage(registry: Location) -> None:
    write(registry, {"format": 2, "anything": "else"})
    with pytest.raises(NewerFormatError, match=r"finetune\.yaml: was written in format 2.*Upgrade"):
        read_finetune(registry, "cats", 1)


def test_a_folder_that_was_copied_says_so(registry: Location) -> None:
    assert "says it is dogs v000001, but lies in the folder of cats" in problem_of(
        registry, MINIMAL | {"task": "dogs"}
    )


def test_only_finished_versions_are_seen(registry: Location) -> None:
    for path in ("cats/v000002/claim.json", "cats/v000003/checkpoint.safetensors", "dogs/v000001/claim.json"):
        (registry / path).write_bytes(b"{}")
    (registry / "README.md").write_bytes(b"notes")
    (registry / ".git/v000001/finetune.yaml").write_bytes(b"")
    write(registry, MINIMAL)
    assert (tasks(registry), versions(registry, "cats")) == (["cats"], [1])
    with pytest.raises(InputError, match="task cats has no version v000002; its newest is v000001"):
        read_finetune(registry, "cats", 2)
    with pytest.raises(InputError, match=r"'\.\./cats' is not a usable name"):
        versions(registry, "../cats")
