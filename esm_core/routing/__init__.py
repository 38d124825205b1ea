"""Routing: one model, an expert per image.

``route``, ``oracle`` and ``base`` are context managers over the mode of a routed model; ``record`` keeps
what was decided. A mode belongs to the model, not to a thread.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from esm_core.errors import InputError
from esm_core.routing.tower import IMAGE, Mode, Record, RoutedTower, routed_tower

__all__ = ["IMAGE", "Record", "RoutedTower", "base", "oracle", "record", "route", "routed_tower"]


@contextmanager
def route(model: nn.Module) -> Iterator[None]:
    """Every image finds its own expert (how a model is loaded)."""
    with _mode(model, Mode("route")):
        yield


@contextmanager
def oracle(model: nn.Module, task: str | Sequence[str]) -> Iterator[None]:
    """Every image takes the expert of ``task``; a sequence names one per image of each batch.

    Raises
    ------
    InputError
        A task the model has no expert for.
    """
    tower = routed_tower(model)
    names = [task] if isinstance(task, str) else list(task)
    unknown = sorted(set(names) - set(tower.tasks))
    if unknown:
        raise InputError(f"no expert for task {', '.join(unknown)}; there are {', '.join(tower.tasks)}.")
    with _mode(model, Mode("oracle", tuple(tower.tasks.index(name) for name in names))):
        yield


@contextmanager
def base(model: nn.Module) -> Iterator[None]:
    """No expert: the published static model, bit for bit."""
    with _mode(model, Mode("base")):
        yield


@contextmanager
def record(model: nn.Module) -> Iterator[Record]:
    """Keep every decision and similarity made inside; not with ``torch.compile``."""
    tower = routed_tower(model)
    before, tower.record = tower.record, Record(tower.tasks)
    try:
        yield tower.record
    finally:
        tower.record = before


@contextmanager
def _mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    tower = routed_tower(model)
    before, tower.mode = tower.mode, mode
    try:
        yield
    finally:
        tower.mode = before
