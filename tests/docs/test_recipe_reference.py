"""The recipe's reference says what the schema says: descriptions live in one place."""

import pytest
from pydantic import BaseModel

from docs_tools.recipe_table import BEGIN, PAGE, SEE, tables, with_tables
from esm_core.recipe import Recipe


def test_the_page_has_the_tables_of_the_schema() -> None:
    page = PAGE.read_text()
    again = with_tables(page, Recipe.model_json_schema())
    assert page == again, "run: python -m docs_tools.recipe_table"


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and those of its sections."""
    found = {model}
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= models(part)
    return found


def test_every_key_of_every_section_has_a_row() -> None:
    text = tables(Recipe.model_json_schema())
    assert len(models(Recipe)) >= 12
    for model in models(Recipe):
        for name in model.model_fields:
            assert f"\n| `{name}` | " in text, (model, name)


def test_more_is_said_only_about_what_there_is() -> None:
    text = tables(Recipe.model_json_schema())
    for name, more in SEE.items():
        assert more in text, name


def test_a_row_says_kind_default_and_meaning() -> None:
    text = tables(Recipe.model_json_schema())
    assert "| `samples` | whole number from 1 | `32` | Proxy images per task. |" in text
    assert "| `alpha` | number from 0 to 4 or `label_free`, `validation` | `label_free` | " in text
    assert "| `min_normalized` | number from 0 to 2 | required | " in text


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_tables(f"{BEGIN} and no end", Recipe.model_json_schema())
