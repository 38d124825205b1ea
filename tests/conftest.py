"""Fixtures for all tests. Warnings are errors, torch runs on one thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_demo import quick_demo
from services import esmerge, faulty_s3, prefect_server, s3
from world import World, build_world
from xdist.scheduler import LoadScopeScheduling

__all__ = ["esmerge", "faulty_s3", "prefect_server", "quick_demo", "s3"]

torch.set_num_threads(1)


class _ServersTogether(LoadScopeScheduling):
    """Tests of one file go to one process, and all of the deployments, so that these start one stack.

    ``--dist loadgroup`` is for this, but with pytest 9.2 xdist 3.8 takes no notice of its groups.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "deployments" if file.startswith("tests/deployments/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ServersTogether | None:
    return _ServersTogether(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path / "world")


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Builds worlds in folders of their own: ``make_world("a", tasks=("x", "y"))``."""

    def build(folder: str, **options: Any) -> World:
        return build_world(tmp_path / folder, **options)

    return build
