"""doctor: whether esmerge can work here."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from esmerge.arguments import JsonOption
from esmerge.command import Command, Panel
from esmerge.output import out, print_json

if TYPE_CHECKING:
    from esm_core.doctor import Check
    from esm_core.recipe import Recipe

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor_command(
    recipe: Annotated[
        str | None, typer.Argument(help="Look at this recipe, its store and its devices too.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Use this store: write, read, list and delete a probe.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether esmerge can work here, and say what to do where it cannot.

    Looked at are Python and the libraries, threads and devices, the temporary folder, the Prefect server and
    the Dask cluster that the environment names, and a recipe and a store where they are given. A store is
    really written: a probe folder, which is removed. Exit code 0 where nothing failed (warnings are allowed),
    1 where a check failed, 2 where an argument cannot be used.
    """
    checks = []
    for check in _checks(recipe, store):
        checks.append(check)
        if not as_json:
            _print(check)
    counts = Counter(check.status for check in checks)
    if as_json:
        print_json({"ok": not counts["fail"], "checks": [asdict(check) for check in checks]})
    else:
        out.print(f"\n{len(checks)} checks: {counts['fail']} failed, {counts['warn']} warnings")
    if counts["fail"]:
        raise typer.Exit(1)


def _checks(recipe: str | None, store: str | None) -> Iterator["Check"]:
    from deployments.doctor import check_dask, check_prefect, uses_dask
    from esm_core.doctor.libraries import check_libraries, check_python
    from esm_core.doctor.machine import check_temporary, check_threads, check_torch
    from esm_core.doctor.recipe import check_recipe
    from esm_core.doctor.store import check_the_store
    from esm_core.storage import Location

    place = None if store is None else Location.parse(store)
    loaded, told = (None, None) if recipe is None else check_recipe(recipe)
    if loaded is not None and place is None:
        place = Location.parse(loaded.store)
    yield check_python()
    extras = {"s3": place is not None and not place.is_local, "dask": uses_dask()}
    yield from check_libraries([extra for extra, needed in extras.items() if needed])
    yield check_threads()
    yield check_torch(None if uses_dask() else loaded)
    yield check_temporary()
    yield check_prefect()
    if dask := check_dask(needs_gpu=_wants_gpu(loaded)):
        yield dask
    if told is not None:
        yield told
    if place is not None:
        yield from check_the_store(place)


def _wants_gpu(recipe: "Recipe | None") -> bool:
    if recipe is None:
        return False
    return any(s.device.startswith("cuda") for s in (recipe.collect, recipe.fuse, recipe.evaluate))


def _print(check: "Check") -> None:
    colour = _COLOURS[check.status]
    out.print(f"[{colour}]{check.status:<4}[/{colour}]  [bold]{check.name}[/bold]: ", end="")
    out.print(check.found, markup=False)
    if check.do:
        out.print(f"      → {check.do}", markup=False)


COMMANDS = (
    Command(
        "doctor",
        doctor_command,
        Panel.OPERATIONS,
        (
            "$ esmerge doctor  # this machine and its environment",
            "$ esmerge doctor recipe.yaml  # and what a merge of it needs",
            "$ esmerge doctor --store s3://models/esmerge --json",
        ),
        '{"ok": true, "checks": [{"name": "threads", "status": "warn", "found": "...", "do": "Set ..."}]}',
    ),
)
