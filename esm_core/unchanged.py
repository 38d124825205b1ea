"""Whether what a stage has read is still what was inspected when the merge began.

A stage asks after its last read and before its result counts, so no version is made of two contents of
one input. Checkpoints are compared by fingerprint, since a layer reads only parts of them; images and
heads by a digest of the bytes themselves.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from esm_core.checkpoints import resolve_checkpoint
from esm_core.errors import InputError, TransientStorageError
from esm_core.extensions import codes
from esm_core.facts import CheckpointFacts
from esm_core.images import Sample, sample_row
from esm_core.plan import Plan
from esm_core.storage import Location

_REMEDY = "changed since the merge began. Run again: the new content will be merged as a new input."


@contextmanager
def unchanged(plan: Plan, names: Sequence[str] | None = None, base_file: bool = False) -> Iterator[None]:
    """Read checkpoints in this block; it ends with an error where one is not what was inspected.

    Parameters
    ----------
    plan : Plan
    names : sequence of str, optional
        The tasks whose fine-tunes are read, beside the base; all of them where not given.
    base_file : bool
        Whether the base's own file is read too, not only the vision tower that may be imported from it.

    Raises
    ------
    InputError
        Names the task and the file: it changed or was deleted. It takes the place of any other error
        in the block, which is then only its consequence.
    """

    def check() -> None:
        _check("the base", plan.base, base_file)
        for task in plan.tasks:
            if names is None or task.name in names:
                _check(f"task {task.name}", task.facts.checkpoint)

    try:
        yield
    except TransientStorageError:
        raise
    except Exception:
        check()
        raise
    check()


def check_head(plan: Plan, name: str) -> None:
    """Refuse a linear head whose file is not what was inspected; call it once the head is read.

    Raises
    ------
    InputError
        Names the task and the file.
    """
    task = plan.task(name)
    if task.spec.head is None:
        return
    file = resolve_checkpoint(Location.parse(task.spec.head))
    if file.sha256() != task.facts.head_sha256:
        raise InputError(f"task {name}: head: {file}: {_REMEDY}")


def as_inspected(
    plan: Plan, name: str, split: Literal["proxy", "test", "validation"], samples: Iterable[Sample]
) -> Iterator[Sample]:
    """The samples, one at a time, and after the last an error where they are not those inspected.

    Parameters
    ----------
    plan : Plan
    name : str
        A task.
    split : str
        Which of its images; of ``proxy`` the samples that were chosen.
    samples : iterable of Sample
        All of them, in the order of the inspection.

    Raises
    ------
    InputError
        Their bytes, labels or number changed; names the task and the place.
    """
    facts = plan.task(name).facts
    labelled = facts.test if split == "test" else facts.validation
    expected = facts.proxies_sha256 if split == "proxy" else labelled and labelled.sha256
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample_row(sample))
        yield sample
    if digest.hexdigest() != expected:
        raise _other_images(plan, name, split)


class RoutingProxies:
    """Keeps a digest of every routing proxy that is read, since routers read them in parts, several times."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows: dict[tuple[str, str], bytes] = {}

    def watch(self, name: str, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples of a task; an error at the first that is not what it was when it was read before."""
        for sample in samples:
            row = sample_row(sample)
            if self._rows.setdefault((name, sample.id), row) != row:
                raise _other_images(self._plan, name, "proxy")
            yield sample

    def check(self) -> None:
        """Refuse proxies that were not those inspected; call it once all of them are read.

        Raises
        ------
        InputError
            Names the task and the place.
        """
        for task in self._plan.tasks:
            digest = hashlib.sha256()
            for sample_id in task.facts.routing_proxies:
                digest.update(self._rows.get((task.name, sample_id), b""))
            if digest.hexdigest() != task.facts.routing_proxies_sha256:
                raise _other_images(self._plan, task.name, "proxy")


def _check(who: str, facts: CheckpointFacts, file_is_read: bool = False) -> None:
    if facts.code is not None and facts.code.identity not in codes("esmerge.layouts"):
        raise InputError(
            f"{who}: {facts.url}: was inspected with {facts.code}, which is not what is installed here. "
            "Install one version wherever the merge runs, and run again."
        )
    # An import in the store is named by its content: what it was made from may change.
    if facts.weights != facts.url and not file_is_read:
        return
    file = Location.parse(facts.url)
    try:
        now = file.fingerprint()
    except InputError as error:
        if file.is_file():
            raise
        raise InputError(
            f"{who}: {file}: was deleted since the merge began. Put it back, or take it out of the recipe."
        ) from error
    if now != facts.fingerprint:
        raise InputError(f"{who}: {file}: {_REMEDY}")


def _other_images(plan: Plan, name: str, split: str) -> InputError:
    return InputError(f"task {name}: {split}: {getattr(plan.task(name).spec, split)}: {_REMEDY}")
