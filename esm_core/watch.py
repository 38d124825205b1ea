"""A look at a recipe's inputs: whether a merge would publish anything new. Reads headers and listings."""

from dataclasses import dataclass

from esm_core.artifacts import open_version, version_numbers
from esm_core.gate import apply_gate
from esm_core.preview import recall_plan
from esm_core.publish import published
from esm_core.registry import load_resolved
from esm_core.registry.changes import changes, inputs_digest
from esm_core.registry.resolution import TooFewTasks
from esm_core.storage import Location
from esm_core.survey import survey


@dataclass(frozen=True)
class Sight:
    """What was seen.

    Attributes
    ----------
    name : str
        Of the artifact.
    inputs : str
        Digest of the inputs as they are now; empty where nothing changed, and so nothing is started.
    current : str
        Label of the newest version, where it was made from exactly these; else empty.
    changes : list of str
        What differs from the newest version, for people.
    """

    name: str
    inputs: str
    current: str
    changes: list[str]


def look(recipe_url: str) -> Sight | None:
    """Compare a recipe's inputs with what the newest version was made from.

    Returns
    -------
    Sight, optional
        None where the registry holds fewer than two fine-tunes yet.

    Raises
    ------
    InputError
        An input cannot be used; every problem is named.
    """
    try:
        recipe = load_resolved(recipe_url)
    except TooFewTasks:
        return None
    store = Location.parse(recipe.store)
    found = survey(recipe)
    plan = recall_plan(found)
    current = published(plan) if plan is not None else None
    if current is not None:
        # A merge that was killed between publishing and promoting is made up for here.
        apply_gate(store, recipe, current)
        return Sight(recipe.name, "", current.label, [])
    newest = open_version(store, recipe.name).manifest if version_numbers(store, recipe.name) else None
    return Sight(recipe.name, inputs_digest(recipe), "", changes(recipe, newest))
