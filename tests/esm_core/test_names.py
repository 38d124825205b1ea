"""No name leads out of the folder that it is a name in."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from world import World

from esm_core.artifacts import artifact_folder, open_version, version_numbers
from esm_core.errors import InputError
from esm_core.recipe import check_name
from esm_core.recipe_file import load_recipe
from esm_core.storage import Location
from esm_core.survey import survey

PIECES = st.sampled_from(
    ["..", ".", "", "a", "b c", "~", "$HOME", "\\", "%2e%2e", "...", "\0", "s3:", "ü", "@"]
)
NAMES = st.lists(PIECES, min_size=1, max_size=6).map("/".join) | st.text(max_size=20)


def inside(place: Location, folder: Location) -> bool:
    scheme, _, path = place.url.partition("://")
    return (scheme + "://" + posixpath.normpath(path) + "/").startswith(folder.url + "/")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(part=NAMES, base=st.sampled_from(["file:///data/store", "s3://bucket/store", "s3://bucket"]))
def test_what_is_below_a_place_stays_below_it(part: str, base: str) -> None:
    folder = Location(base)
    if {".", ".."} & set(part.split("/")) or "\0" in part:
        with pytest.raises(InputError, match="would lead out of this folder"):
            folder / part
    else:
        assert inside(folder / part, folder)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(part=NAMES)
def test_nothing_is_written_outside_the_store(tmp_path_factory: pytest.TempPathFactory, part: str) -> None:
    root = tmp_path_factory.mktemp("root")
    store = Location.parse(str(root / "a" / "b" / "store"))
    for write in (lambda place: place.write_bytes(b"x"), lambda place: place.create(b"x")):
        try:
            write(store / part)
        except InputError:
            continue
    outside = [p for p in root.rglob("*") if p.is_file() and (root / "a" / "b" / "store") not in p.parents]
    # An empty name is the place itself.
    assert not [p for p in outside if p != root / "a" / "b" / "store"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=NAMES)
def test_an_artifact_stays_in_its_folder(name: str) -> None:
    store = Location("file:///data/store")
    try:
        folder = artifact_folder(store, name)
    except InputError:
        return
    assert check_name(name) == name
    assert folder.parent == store / "artifacts"


@pytest.mark.parametrize("version", ["../v000001", "v1/../../x", "latest/..", "..", "", "-1", "v", "1.5"])
def test_a_version_is_a_number_or_latest(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match="version"):
        open_version(Location.parse(str(tmp_path)), "pets", version)


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "/etc", "", "."])
def test_an_artifact_name_with_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a usable name"):
        version_numbers(Location.parse(str(tmp_path)), name)


@pytest.mark.parametrize("field", ["name", "task"])
def test_a_recipe_with_a_name_that_is_a_path_is_refused(world: World, field: str) -> None:
    if field == "name":
        world.recipe["name"] = "../../x"
    else:
        world.recipe["tasks"][0]["name"] = "../../x"
    with pytest.raises(InputError, match="not a usable name"):
        load_recipe(str(world.recipe_path))


def test_a_weight_named_like_a_path_is_refused_and_nothing_is_written(world: World) -> None:
    for file in ("base", "cats", "dogs", "maps"):
        path = world.root / f"{file}.safetensors"
        save_file({**load_file(path), "visual.../../../x": torch.zeros(4, 4)}, path)
    before = sorted(p for p in world.root.parent.rglob("*"))
    with pytest.raises(InputError):
        survey(load_recipe(str(world.recipe_path)))
    after = sorted(p for p in world.root.parent.rglob("*") if p.name != "recipe.yaml")
    assert [p for p in after if p not in before] == []


# Credentials in what people write.

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYcanary"  # noqa: S105  of nobody


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIACANARY:{SECRET}@bucket/x",
        f"s3://AKIACANARY:{SECRET}/bucket/x",
        f"s3:/AKIACANARY:{SECRET}@bucket/x",
        f"s3:AKIACANARY:{SECRET}@bucket/x",
        f"https://AKIACANARY:{SECRET}@host/x",
        f"AKIACANARY:{SECRET}@s3://bucket/x",
        f"s3://bucket/x?X-Amz-Signature={SECRET}&X-Amz-Credential=AKIACANARY",
        f"file://AKIACANARY:{SECRET}@host/x",
    ],
)
@pytest.mark.parametrize("where", ["store", "base", "checkpoint", "proxy", "list", "recipe", "yaml"])
def test_a_url_with_credentials_is_refused_and_not_repeated(
    world: World, text: str, where: str, tmp_path: Path
) -> None:
    recipe = world.recipe
    changes: dict[str, Callable[[], object]] = {
        "store": lambda: recipe.update(store=text),
        "base": lambda: recipe["base"].update(checkpoint=text),
        "checkpoint": lambda: recipe["tasks"][0].update(checkpoint=text),
        "proxy": lambda: recipe["tasks"][0].update(proxy=text),
        "list": lambda: recipe.update(store=[text]),
        "recipe": lambda: None,
        "yaml": lambda: None,
    }
    changes[where]()
    path = tmp_path / "recipe-with-secret.yaml"
    path.write_text(yaml.safe_dump(recipe) + (f"store: {text}: x\n" if where == "yaml" else ""))
    with pytest.raises(InputError) as caught:
        load_recipe(text if where == "recipe" else str(path))
    for secret in ("AKIACANARY", *SECRET.split("/")):
        assert secret not in str(caught.value)
    assert os.path.exists(path)
