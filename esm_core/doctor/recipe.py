"""Whether a recipe can be read, and the fine-tunes found that it takes from a registry."""

from esm_core.doctor.check import Check
from esm_core.doctor.store import impatience
from esm_core.errors import EsmergeError
from esm_core.recipe import Recipe
from esm_core.registry import load_resolved
from esm_core.storage import Location


def check_recipe(url: str) -> tuple[Recipe | None, Check]:
    """The recipe, where it can be read. What it names is looked at by a plan, not here."""
    try:
        with impatience(Location.parse(url)):
            loaded = load_resolved(url)
    except EsmergeError as error:
        do = "Correct the recipe: docs/recipe.md is its reference."
        return None, Check("recipe", "fail", str(error), do)
    found = f"{url}: {loaded.name}, {len(loaded.tasks)} tasks; esmerge plan looks at what it names"
    return loaded, Check("recipe", "ok", found)
