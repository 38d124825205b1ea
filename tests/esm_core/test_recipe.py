import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esm_core import InputError
from esm_core.recipe import Recipe, check_name
from esm_core.recipe_file import load_recipe, parse_recipe, recipe_schema
from esm_core.storage import Location

SOURCE = Location("file:///data/recipes/pets.yaml")
MINIMAL: dict[str, Any] = {
    "name": "pets",
    "store": "store",
    "base": {"architecture": "ViT-B-32", "checkpoint": "base.safetensors"},
    "tasks": [
        {"name": "cats", "checkpoint": "cats.safetensors", "proxy": "cats/proxy"},
        {"name": "dogs", "checkpoint": "dogs.safetensors", "proxy": "dogs/proxy"},
    ],
}


def parse(data: Any, source: Location = SOURCE) -> Recipe:
    return parse_recipe(yaml.safe_dump(data), source)


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = copy.deepcopy(MINIMAL)
    change(data)
    return data


def problems_of(data: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        parse(data)
    return caught.value.problems


def test_what_a_recipe_does_not_say_is_as_published() -> None:
    recipe = parse(MINIMAL)
    assert (recipe.samples, recipe.seed, recipe.alpha) == (32, 0, "label_free")
    assert recipe.method.model_dump() == {
        "eigen_exponent": 0.15,
        "scaling_exponent": 2.0,
        "rank": None,
        "inter_task": True,
        "inter_dimension": True,
        "inter_layer": True,
    }
    assert recipe.collect.layers == ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    assert (recipe.collect.device, recipe.collect.precision, recipe.fuse.device) == ("cpu", "float32", "cpu")
    assert recipe.compare == []


# Paths.


def test_relative_paths_are_taken_from_the_recipes_folder() -> None:
    data = changed(
        lambda d: d["tasks"][0].update(test="../images/test", validation="/data/val", head="~/h.safetensors")
    )
    recipe = parse(data)
    task = recipe.tasks[0]
    assert recipe.store == "file:///data/recipes/store"
    assert recipe.base.checkpoint == "file:///data/recipes/base.safetensors"
    assert task.proxy == "file:///data/recipes/cats/proxy"
    assert task.test == "file:///data/images/test"
    assert task.validation == "file:///data/val"
    assert task.head == f"file://{Path.home()}/h.safetensors"


def test_relative_paths_of_a_recipe_on_s3_stay_on_s3() -> None:
    data = changed(
        lambda d: d["tasks"][0].update(test="../../test", validation="s3://other/val/", head="/h.st")
    )
    recipe = parse(data, Location("s3://bucket/a/recipes/pets.yaml"))
    assert recipe.store == "s3://bucket/a/recipes/store"
    assert recipe.tasks[0].proxy == "s3://bucket/a/recipes/cats/proxy"
    assert recipe.tasks[0].test == "s3://bucket/test"
    assert recipe.tasks[0].validation == "s3://other/val"
    assert recipe.tasks[0].head == "file:///h.st"


def test_a_model_name_stays_a_name_and_a_config_file_and_local_dir_become_paths() -> None:
    assert parse(MINIMAL).base.architecture == "ViT-B-32"
    base = parse(
        changed(lambda d: d.update(base={"architecture": "c.json", "checkpoint": "local-dir:m"}))
    ).base
    assert base.architecture == "file:///data/recipes/c.json"
    assert base.checkpoint == "file:///data/recipes/m"


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_recipe(str(path)).store == f"file://{tmp_path}/store"
    path.write_bytes(b"\xff\xfe name")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        load_recipe(str(path))
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        load_recipe(str(tmp_path / "absent.yaml"))


def test_a_recipe_in_a_folder_with_an_odd_name_finds_its_neighbours() -> None:
    recipe = parse(MINIMAL, Location.parse("/data/run #1? 100%/pets.yaml"))
    assert recipe.store == "file:///data/run #1? 100%/store"


# Errors.


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("nmae", lambda d: d.update(nmae="x")),
        ("base.arch", lambda d: d["base"].update(arch="x")),
        ("tasks[1].checkpiont", lambda d: d["tasks"][1].update(checkpiont="x")),
        ("method.ranks", lambda d: d.update(method={"ranks": 3})),
        ("collect.layer", lambda d: d.update(collect={"layer": []})),
        ("fuse.gpu", lambda d: d.update(fuse={"gpu": 0})),
        ("evaluate.gpu", lambda d: d.update(evaluate={"gpu": 0})),
        ("compare[0].alpha", lambda d: d.update(compare=[{"method": "tsv_m", "alpha": 1}])),
        (
            "tasks[0].zero_shot.names",
            lambda d: d["tasks"][0].update(zero_shot={"classes": ["a", "b"], "names": 1}),
        ),
    ],
)
def test_an_unknown_key_is_named(field: str, change: Callable[[dict[str, Any]], Any]) -> None:
    (problem,) = problems_of(changed(change))
    assert problem.startswith(f"{SOURCE}: {field}: unknown key")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", lambda d: d.pop("name")),
        ("name", lambda d: d.update(name=3)),
        ("store", lambda d: d.pop("store")),
        ("base", lambda d: d.pop("base")),
        ("base.checkpoint", lambda d: d["base"].pop("checkpoint")),
        ("base.activation", lambda d: d["base"].update(activation="relu")),
        ("tasks", lambda d: d.update(tasks=[])),
        ("tasks", lambda d: d["tasks"].pop()),
        ("tasks", lambda d: d["tasks"][1].update(name="cats")),
        ("tasks[0].name", lambda d: d["tasks"][0].update(name="a/b")),
        ("tasks[1].proxy", lambda d: d["tasks"][1].pop("proxy")),
        ("tasks[1]", lambda d: d["tasks"][1].update(head="h", zero_shot={"classes": ["a", "b"]})),
        ("tasks[0].zero_shot.classes", lambda d: d["tasks"][0].update(zero_shot={"classes": ["a"]})),
        (
            "tasks[0].zero_shot",
            lambda d: d["tasks"][0].update(zero_shot={"classes": ["a", "b"], "templates": ["a"]}),
        ),
        ("samples", lambda d: d.update(samples=0)),
        ("samples", lambda d: d.update(samples=2.5)),
        ("seed", lambda d: d.update(seed=-1)),
        ("alpha", lambda d: d.update(alpha=4.5)),
        ("alpha", lambda d: d.update(alpha=float("nan"))),
        ("method.rank", lambda d: d.update(method={"rank": 0})),
        ("collect.layers[1]", lambda d: d.update(collect={"layers": ["mlp.c_fc", "mlp"]})),
        ("collect.layers", lambda d: d.update(collect={"layers": []})),
        ("collect.batch_size", lambda d: d.update(collect={"batch_size": 0})),
        ("collect.precision", lambda d: d.update(collect={"precision": "int8"})),
        ("compare[0].method", lambda d: d.update(compare=[{"method": "ties"}])),
        ("compare[0].coefficient", lambda d: d.update(compare=[{"method": "tsv_m", "coefficient": 0}])),
        (
            "compare[0].coefficient",
            lambda d: d.update(compare=[{"method": "tsv_m", "coefficient": float("inf")}]),
        ),
        ("compare", lambda d: d.update(compare=[{"method": "tsv_m"}, {"method": "tsv_m"}])),
        ("store", lambda d: d.update(store="ftp://host/store")),
        ("store", lambda d: d.update(store="s3://key:secret@bucket/store")),
        ("base.checkpoint", lambda d: d["base"].update(checkpoint="")),
        ("tasks[1].proxy", lambda d: d["tasks"][1].update(proxy="gs://bucket/proxy")),
        ("tasks[1].test", lambda d: d["tasks"][1].update(test="s3://[bucket]/test")),
    ],
)
def test_an_error_names_its_field(field: str, change: Callable[[dict[str, Any]], Any]) -> None:
    problems = problems_of(changed(change))
    assert any(problem.startswith(f"{SOURCE}: {field}: ") for problem in problems), problems
    assert "secret" not in str(problems)


@pytest.mark.parametrize(
    "alpha", ["best", "", "fixed", True, False, None, [2.0], -0.1, "4.5", {}, float("inf")]
)
def test_a_wrong_alpha_is_one_problem(alpha: object) -> None:
    (problem,) = problems_of(changed(lambda d: d.update(alpha=alpha)))
    assert problem.startswith(
        f"{SOURCE}: alpha: must be a number from 0 to 4, or one of label_free, validation"
    )


@pytest.mark.parametrize(
    ("written", "alpha"), [(0, 0.0), (4, 4.0), ("1e0", 1.0), ("validation", "validation")]
)
def test_alpha_is_a_number_or_names_a_search(written: object, alpha: object) -> None:
    found = parse(changed(lambda d: d.update(alpha=written))).alpha
    assert found == alpha
    assert type(found) is type(alpha)


def test_all_errors_are_reported_together() -> None:
    data = changed(lambda d: d.update(samples=0, alpha=9, extra=1) or d["tasks"][0].pop("proxy"))
    assert len(problems_of(data)) == 4


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", "a..b", ".hidden", "-x", "_x", "", "a b", "a\nb", "a\n", "ü", "a" * 81, "a\\b", "$(x)"],
)
def test_names_that_could_leave_their_folder_or_confuse_a_shell_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a usable name"):
        check_name(name)
    (problem,) = problems_of(changed(lambda d: d.update(name=name)))
    assert problem.startswith(f"{SOURCE}: name: ")


@pytest.mark.parametrize("name", ["a", "7", "cats-v1.2_b", "a" * 80])
def test_plain_names_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("text", ["", "[]", "3", "just text"])
def test_a_recipe_is_a_mapping(text: str) -> None:
    with pytest.raises(InputError, match="a recipe is a YAML mapping"):
        parse_recipe(text, SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: \x00",
        "name: !!python/object:os.system x",
        "seed: 2024-99-99",
        "seed: !!int many",
        "[a, b]: c",
        "? {a: 1}\n: c",
    ],
)
def test_text_that_is_not_plain_yaml_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match=r"pets\.yaml: is not valid YAML"):
        parse_recipe(text, SOURCE)


@pytest.mark.parametrize("text", ["name: a\nname: b", "base: {checkpoint: a, checkpoint: b}", "1: a\n1: b"])
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is given twice.*line \d"):
        parse_recipe(text, SOURCE)


def test_anchors_and_merge_keys_of_yaml_work() -> None:
    text = yaml.safe_dump(MINIMAL | {"fuse": {"device": "cuda"}})
    text = text.replace("fuse:\n", "fuse: &gpu\n") + "evaluate:\n  <<: *gpu\n  batch_size: 2\n"
    recipe = parse_recipe(text, SOURCE)
    assert (recipe.evaluate.device, recipe.evaluate.batch_size) == ("cuda", 2)


# Schema.


def fields_of(schema: dict[str, Any], definition: dict[str, Any]) -> set[str]:
    found = set()
    for name, value in definition.get("properties", {}).items():
        found.add(name)
        for part in (value, value.get("items", {}), *value.get("anyOf", [])):
            if "$ref" in part:
                child = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
                found |= {f"{name}.{field}" for field in fields_of(schema, child)}
    return found


def test_the_schema_is_json_schema_with_every_field() -> None:
    schema = json.loads(recipe_schema())
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "store", "base"}
    fields = fields_of(schema, schema)
    dumped = parse(MINIMAL).model_dump()
    for section, value in dumped.items():
        inside = value[0] if isinstance(value, list) and value else value
        names = [f"{section}.{field}" for field in inside] if isinstance(inside, dict) else []
        assert {section, *names} <= fields
    assert {"compare.method", "compare.coefficient", "tasks.zero_shot.classes"} <= fields


def test_the_schema_in_the_docs_is_up_to_date() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "recipe.schema.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist yet")
    assert path.read_text() == recipe_schema()


def test_a_gate_has_a_channel_and_a_tolerance() -> None:
    gate = parse(changed(lambda d: d.update(promote_if={"min_normalized": 0.85}))).promote_if
    assert gate is not None
    assert (gate.channel, gate.min_normalized, gate.max_drop) == ("stable", 0.85, 0.01)
    assert parse(MINIMAL).promote_if is None


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({}, "promote_if.min_normalized: Field required"),
        ({"min_normalized": 85}, "promote_if.min_normalized: Input should be less than or equal to 2"),
        ({"min_normalized": 0.8, "max_drop": -1}, "promote_if.max_drop: Input should be greater"),
        (
            {"min_normalized": 0.8, "channel": "latest"},
            "promote_if.channel: 'latest' names a version already",
        ),
        ({"min_normalized": 0.8, "channel": "v12"}, "promote_if.channel: 'v12' names a version already"),
        ({"min_normalized": 0.8, "channel": "../x"}, "promote_if.channel: '../x' is not a usable name"),
        ({"min_normalised": 0.8}, "promote_if.min_normalised: unknown key"),
    ],
)
def test_a_wrong_gate_names_its_field(gate: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(changed(lambda d: d.update(promote_if=gate)))
    assert said in str(caught.value)
