"""Fixtures for all tests. Warnings are errors, torch runs on one thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_demo import quick_demo
from services import esmerge, faulty_s3, prefect_server, s3
from world import World, build_world

__all__ = ["esmerge", "faulty_s3", "prefect_server", "quick_demo", "s3"]

torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path / "world")


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Builds worlds in folders of their own: ``make_world("a", tasks=("x", "y"))``."""

    def build(folder: str, **options: Any) -> World:
        return build_world(tmp_path / folder, **options)

    return build
