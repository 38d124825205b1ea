"""The fine-tunes of a world, landed in a registry."""

from typing import Any

from world import World

from esm_core.registry import Landed, Landing, land
from esm_core.storage import Location


def landing(world: World, name: str, **others: Any) -> Landing:
    """One task of a world as somebody would land it."""
    spec = world.task(name)
    places = {
        field: Location.parse(str(world.root / spec[field]))
        for field in ("checkpoint", "proxy", "validation", "test", "head")
        if field in spec
    }
    return Landing(**({"task": name, **places} | others))


def land_all(world: World, registry: Location) -> list[Landed]:
    """Land every task and let the recipe take them from the registry."""
    landed = [land(registry, landing(world, spec["name"])) for spec in world.recipe["tasks"]]
    del world.recipe["tasks"]
    world.recipe["tasks_from"] = {"registry": registry.url}
    return landed
