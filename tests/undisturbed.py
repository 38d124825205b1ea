"""What merges publish that nothing disturbs, for tests of those that something does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import start_command
from world import build_world

Undisturbed = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Undisturbed:
    """The store of a merge with such settings that nothing disturbed; each is merged once."""
    merged: dict[str, Path] = {}

    def store(settings: dict[str, Any]) -> Path:
        key = json.dumps(settings)
        if key not in merged:
            world = build_world(tmp_path_factory.mktemp("undisturbed"), test=False)
            world.recipe |= settings
            merge = start_command(world.root / "output", "merge", world.recipe_path)
            merge.join(240)
            assert merge.exitcode == 0, (world.root / "output").read_text()
            merged[key] = world.root / "store"
        return merged[key]

    return store
