"""The tables of the recipe reference, made from the recipe's JSON Schema.

``python -m docs_tools.recipe_table`` writes them into ``docs/recipe.md``, between its two marks.
"""

import json
from pathlib import Path
from typing import Any

from esm_core.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
BEGIN = "<!-- Made from the schema by: python -m docs_tools.recipe_table -->"
END = "<!-- End of what is made from the schema. -->"

SEE = {
    "tasks_from": "[The registry](registry.md).",
    "alpha": "[How it is searched](method.md#the-choice-of-alpha).",
    "experts": "[Experts and routing](experts.md).",
    "promote_if": "[The gate](channels.md#the-gate).",
    "compare": "[Methods of your own](extending.md) can be among them.",
    "fuse": "[Sizes](operations.md#sizes) of what is kept.",
}
"""Where more is said about a section or field."""

Schema = dict[str, Any]


def tables(schema: Schema) -> str:
    """One table for the recipe's own keys and one per section, in Markdown."""
    parts = ["### The recipe\n", _table(schema, schema["properties"], schema.get("required", []))]
    for name, definition, plural in _sections(schema, schema, ""):
        lead = " ".join(part for part in (_summary(definition), SEE.get(name, "")) if part)
        parts.append(f"### `{name}{'[]' if plural else ''}`\n\n{lead}\n")
        parts.append(_table(schema, definition["properties"], definition.get("required", [])))
    return "\n".join(parts)


def with_tables(page: str, schema: Schema) -> str:
    """The page with its tables as the schema has them; ``ValueError`` where it lacks the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{tables(schema)}\n{END}{after}"


def _sections(root: Schema, part: Schema, prefix: str) -> list[tuple[str, Schema, bool]]:
    """(dotted name, definition, whether a list of it) of every mapping with keys of its own."""
    found = []
    for name, field in part["properties"].items():
        reference, plural = _reference(field)
        if reference is not None:
            definition = root["$defs"][reference]
            full = f"{prefix}{name}"
            found += [
                (full, definition, plural),
                *_sections(root, definition, f"{full}[]." if plural else f"{full}."),
            ]
    return found


def _reference(field: Schema) -> tuple[str | None, bool]:
    for option in (field, *field.get("anyOf", [])):
        if "$ref" in option:
            return option["$ref"].rpartition("/")[2], False
        if "$ref" in option.get("items", {}):
            return option["items"]["$ref"].rpartition("/")[2], True
    return None, False


def _table(root: Schema, fields: Schema, required: list[str]) -> str:
    rows = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = "required" if name in required else _default(field)
        reference, plural = _reference(field)
        if reference is None or plural:
            meaning = " ".join(part for part in (field["description"], SEE.get(name, "")) if part)
        else:
            meaning = field.get("description") or _summary(root["$defs"][reference])
        rows.append(f"| `{name}` | {_kind(root, field)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _summary(definition: Schema) -> str:
    """The first paragraph of a section's docstring."""
    return " ".join(str(definition["description"]).partition("\n\n")[0].split()).replace("``", "`")


def _default(field: Schema) -> str:
    value = field.get("default")
    if _reference(field)[0] is not None or value in (None, [], {}):
        return "none" if value is None and "default" in field else "as below" if value else "empty"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _kind(root: Schema, field: Schema) -> str:
    """What a value must be, in words."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(_one_kind(root, option) for option in options)


def _one_kind(root: Schema, option: Schema) -> str:
    if "$ref" in option:
        return "keys below"
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    if "const" in option:
        return f"`{option['const']}`"
    kind = option.get("type")
    if kind == "array":
        return f"list of {_kind(root, option['items'])}"
    if kind == "object":
        return "mapping"
    if "pattern" in option:
        return "64 hexadecimal digits" if "64" in option["pattern"] else f"`{option['pattern']}`"
    words = {"string": "text", "boolean": "`true`, `false`", "integer": "whole number", "number": "number"}
    return " ".join(part for part in (words[str(kind)], _bounds(option)) if part)


def _bounds(option: Schema) -> str:
    low, high, above = (option.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    if low is not None:
        return f"from {low:g}"
    return f"above {above:g}" if above is not None else ""


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(with_tables(PAGE.read_text(), Recipe.model_json_schema()))


if __name__ == "__main__":
    main()
