"""Reading a recipe: YAML in, a :class:`Recipe` with absolute paths out, every problem at once."""

import json
import reprlib
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from esm_core.errors import InputError, raise_together
from esm_core.recipe import Recipe
from esm_core.storage import Location

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_recipe(text: str, source: Location) -> Recipe:
    """The recipe in ``text``, with every relative path made absolute against ``source``'s folder.

    Raises
    ------
    InputError
        One problem per field that is missing, unknown or has a wrong value.
    """
    data = parse_yaml(text, source)
    if not isinstance(data, dict):
        raise InputError(f"{source}: a recipe is a YAML mapping with name, store, base and tasks.")
    return _with_absolute_paths(validated(Recipe, data, source), source)


def load_recipe(url: str) -> Recipe:
    """Read a recipe from a path, ``file://`` or ``s3://`` URL; see :func:`parse_recipe`.

    Fine-tunes that it takes from a registry are not looked up; see :func:`esm_core.registry.load_resolved`.
    """
    location = Location.parse(url)
    return parse_recipe(read_text(location, "a recipe"), location)


def read_text(location: Location, what: str) -> str:
    """The text of a YAML file; :class:`InputError` where it is not UTF-8."""
    try:
        return location.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{location}: is not a text file in UTF-8; {what} is YAML.") from error


def parse_yaml(text: str, source: Location) -> Any:
    """What a YAML text holds; :class:`InputError` for other text, or for a key that is given twice."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # Not the error's own text, which quotes the line: that may hold a URL with credentials.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        told = " ".join(str(problem or error).split())
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise InputError(f"{source}: is not valid YAML: {told}{place}.") from None


def validated(model: type[Model], data: Any, source: Location) -> Model:
    """``data`` as a ``model``; :class:`InputError` with one problem per wrong field, which it names."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # The cause would print every value, and one may be a URL with credentials.
        raise InputError(*(f"{source}: {_describe(item)}" for item in error.errors())) from None


def recipe_schema() -> str:
    """The recipe's JSON Schema, for editors, as indented JSON text."""
    return json.dumps(Recipe.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _describe(item: Any) -> str:
    field = ""
    for part in item["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown key; check its spelling against the recipe reference."
    message = str(item["msg"]).removeprefix("Value error, ")
    hidden = item["type"] in ("missing", "value_error") or _may_tell_a_secret(repr(item["input"]))
    got = "" if hidden else f" (got {reprlib.repr(item['input'])})"
    return f"{field}: {message}{got}." if field else f"{message}."


def _may_tell_a_secret(text: str) -> bool:
    return "@" in text or "X-Amz-" in text


def _with_absolute_paths(recipe: Recipe, source: Location) -> Recipe:
    problems: list[str] = []

    def absolute(owner: BaseModel, attribute: str, field: str) -> str | None:
        text = getattr(owner, attribute)
        if text is None or (attribute == "architecture" and not text.endswith(".json")):
            return None if text is None else str(text)
        try:
            return Location.parse(text.removeprefix("local-dir:"), relative_to=source.parent).url
        except InputError as error:
            problems.extend(f"{source}: {field}: {problem}" for problem in error.problems)
            return None

    base = {name: absolute(recipe.base, name, f"base.{name}") for name in ("architecture", "checkpoint")}
    tasks = []
    for index, task in enumerate(recipe.tasks):
        paths = ("checkpoint", "proxy", "validation", "test", "head")
        found = {path: absolute(task, path, f"tasks[{index}].{path}") for path in paths}
        tasks.append(task.model_copy(update=found))
    update: dict[str, Any] = {
        "store": absolute(recipe, "store", "store"),
        "base": recipe.base.model_copy(update=base),
        "tasks": tasks,
    }
    if recipe.tasks_from is not None:
        registry = absolute(recipe.tasks_from, "registry", "tasks_from.registry")
        update["tasks_from"] = recipe.tasks_from.model_copy(update={"registry": registry})
    raise_together(problems)
    return recipe.model_copy(update=update)
