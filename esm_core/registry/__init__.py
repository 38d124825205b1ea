"""The registry: fine-tunes that landed, version by version, and the recipes that take them from there.

``{registry}/{task}/v000001/`` holds a checkpoint, images or pointers to them, maybe a head, and
``finetune.yaml``, which is written last: without it the folder is nobody's input. A version is never
written again; a better fine-tune lands as a new one.
"""

from esm_core.recipe import Recipe
from esm_core.recipe_file import load_recipe
from esm_core.registry.finetune import FineTune, read_finetune, tasks, versions
from esm_core.registry.landing import Landed, Landing, land
from esm_core.registry.resolution import resolve

__all__ = [
    "FineTune",
    "Landed",
    "Landing",
    "land",
    "load_resolved",
    "read_finetune",
    "resolve",
    "tasks",
    "versions",
]


def load_resolved(url: str) -> Recipe:
    """Read a recipe and look up the fine-tunes it takes from a registry: its tasks are all explicit then.

    Raises
    ------
    InputError
        What :func:`esm_core.recipe_file.load_recipe` and :func:`resolve` raise.
    """
    return resolve(load_recipe(url))
