"""A recipe with some settings replaced for one run, as the form in the Prefect UI offers them."""

from typing import Any, Literal

from pydantic import ValidationError

from esm_core.errors import InputError
from esm_core.recipe import Recipe
from esm_core.settings import ExpertSettings

AS_RECIPE = "recipe"
ExpertChoice = Literal["recipe", "on", "off"]


def override(recipe: Recipe, alpha: str, rank: int, experts: ExpertChoice) -> Recipe:
    """The recipe with what the form says in place of its own settings.

    Parameters
    ----------
    alpha : str
        ``recipe``, or what a recipe's ``alpha`` can be: a number, ``label_free``, ``validation``.
    rank : int
        Rank of the experts; 0 keeps the recipe's.
    experts : str
        ``on`` keeps the recipe's experts, or adds experts with default settings; ``off`` leaves them out.

    Raises
    ------
    InputError
        A value that a recipe could not hold, or a rank for a merge without experts.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json")
    if alpha.strip() and alpha != AS_RECIPE:
        content["alpha"] = alpha.strip()
    if experts == "off":
        content["experts"] = None
    elif experts == "on" and content["experts"] is None:
        content["experts"] = ExpertSettings().model_dump(mode="json")
    if rank:
        if content["experts"] is None:
            raise InputError(f"rank {rank} was given, but this merge has no experts: set experts to on.")
        content["experts"]["rank"] = rank
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}." for p in error.errors())
        raise InputError(*problems) from error
