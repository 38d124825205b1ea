"""What of a store goes and what stays. Nothing is written here."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from esm_core.artifacts import Manifest
from esm_core.claims import version_label
from esm_core.errors import InputError
from esm_core.gc.report import Garbage, Kept, Policy, Report, span
from esm_core.gc.versions import collect_versions
from esm_core.leases import FRESH, read_lease
from esm_core.names import check_name
from esm_core.stages import MARKER
from esm_core.storage import Location
from esm_core.store import check_store

STAGES = (
    *(
        "shifts",
        "bases",
        "merges",
        "spectra",
        "lines",
        "features",
        "scores",
        "alphas",
        "static",
        "experts",
        "routers",
        "routed",
    ),
    *("zero-shot", "evaluations", "plans", "imports"),
)
"""Folders of the store whose entries are named by a sha256. Whatever else is in a store is never touched."""

BEFORE_A_LEASE = ("plans", "imports")
"""What a merge writes before it knows enough to take a lease: kept for as long as a lease would hold."""

_WITHOUT_MARKER = ("bases", "spectra", "scores", "alphas", "zero-shot", "evaluations", *BEFORE_A_LEASE)

Needed = dict[str, str]


@dataclass(frozen=True)
class _Unit:
    """A stage's output: everything whose path begins with ``kind/sha256``."""

    path: str
    key: str
    bytes: int
    changed: datetime
    markers: tuple[str, ...]


def collect(
    store: Location, policy: Policy, now: datetime, between: Callable[[], None] = lambda: None
) -> Report:
    """Judge everything in a store that esmerge knows; see docs/channels.md for what is kept.

    Parameters
    ----------
    now : datetime
        With a time zone; ages are taken against it.
    between : callable
        Called between listings, which may each take a while.

    Raises
    ------
    InputError
        The store cannot be read, or is of a newer format.
    """
    check_store(store)
    report, needed = Report(), Needed()
    _judge_leases(store, now, report, needed)
    for name in (store / "artifacts").children():
        between()
        if not _is_name(name):
            continue
        held = needed.get(f"artifacts/{name}")
        found = collect_versions(store, name, policy, now, held)
        for number, manifest in found.manifests.items():
            paths, note = _store_paths(manifest, f"{name} {version_label(number)}")
            report.notes.extend(note)
            for path in paths:
                needed.setdefault(path, f"{name} {version_label(number)} was made from it")
        report.garbage.extend(found.report.garbage)
        report.kept.extend(found.report.kept)
        report.notes.extend(found.report.notes)
        report.retired.update(found.report.retired)
    entries = _entries_by_import(store)
    for kind in STAGES:
        between()
        for unit in _units(store, kind):
            _judge(unit, entries.get(unit.key, {}), policy, now, needed, report)
    return report


def _judge(
    unit: _Unit,
    entries: dict[str, datetime],
    policy: Policy,
    now: datetime,
    needed: Needed,
    report: Report,
) -> None:
    """``entries`` are those of the ledger that name an import, which then go with it, and before it."""
    kind = unit.key.partition("/")[0]
    grace = max(policy.min_age, FRESH) if kind in BEFORE_A_LEASE else policy.min_age
    reason = needed.get(unit.key) or needed.get(kind)
    if reason is None and now - max([unit.changed, *entries.values()]) < grace:
        reason = f"was written within {span(grace)}"
    if reason is not None:
        report.kept.append(Kept(unit.path, unit.bytes, reason))
        return
    unfinished = not unit.markers and kind not in _WITHOUT_MARKER
    why = "never completed" if unfinished else "no version that stays and no merge needs it"
    report.garbage.append(Garbage(unit.path, unit.bytes, why, (*sorted(entries), *unit.markers)))


def _units(store: Location, kind: str) -> Iterator[_Unit]:
    files: dict[str, dict[str, tuple[int, datetime]]] = defaultdict(dict)
    for path, facts in (store / kind).entries().items():
        if re.match(r"[0-9a-f]{64}(?![0-9a-f])", path):
            files[path.partition("/")[0]][path] = facts
    for name, parts in sorted(files.items()):
        markers = tuple(f"{kind}/{path}" for path in sorted(parts) if path.endswith(f"/{MARKER}"))
        size, changed = sum(size for size, _ in parts.values()), max(time for _, time in parts.values())
        yield _Unit(f"{kind}/{name}", _key(f"{kind}/{name}"), size, changed, markers)


def _key(path: str) -> str:
    """``kind/sha256`` of a path below it; other paths as they are."""
    match = re.match(r"[^/]+/[0-9a-f]{64}", path)
    return match[0] if match else path


def _judge_leases(store: Location, now: datetime, report: Report, needed: Needed) -> None:
    for file, (size, changed) in sorted((store / "leases").entries().items()):
        path = f"leases/{file}"
        if not file.endswith(".json") or "/" in file:
            continue
        try:
            lease = read_lease(store / path)
        except (InputError, ValueError, KeyError) as error:
            if not (store / path).is_file():
                continue
            report.notes.append(f"{error} No stage goes until it is {span(FRESH)} old.")
            if now - changed < FRESH:
                needed.update(dict.fromkeys(STAGES, f"{path} cannot be read, and may need it"))
            continue
        if not lease.is_fresh(now):
            why = f"a lease of {lease.name} that was not refreshed for {span(FRESH)}"
            report.garbage.append(Garbage(path, size, why))
            continue
        since = lease.refreshed.isoformat(timespec="minutes")
        for prefix in lease.prefixes:
            needed.setdefault(_key(prefix), f"a merge of {lease.name} needs it ({path}, {since})")


def _store_paths(manifest: Manifest, label: str) -> tuple[list[str], list[str]]:
    """What a version was made from; its shifts at least, where it is of a release that did not note it."""
    if "store_paths" in manifest:
        return [_key(path) for path in manifest["store_paths"]], []
    tasks = manifest.get("inputs", {}).get("tasks", {}).values()
    shifts = [f"shifts/{task['proxies']['shifts']}" for task in tasks if "shifts" in task.get("proxies", {})]
    note = f"{label} does not say what it was made from (an older esmerge): only its shifts are kept."
    return shifts, [note] if shifts else []


def _entries_by_import(store: Location) -> dict[str, dict[str, datetime]]:
    """Import → the ledger's entries that name it, and their times."""
    imports = {_key(f"imports/{name}") for name in (store / "imports").children()}
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    if imports:
        for file, (_, changed) in (store / "inspections").entries().items():
            try:
                content = (store / "inspections" / file).read_bytes().decode(errors="replace")
            except InputError:
                continue
            for key in set(re.findall(r"imports/[0-9a-f]{64}", content)) & imports:
                found[key][f"inspections/{file}"] = changed
    return found


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except ValueError:
        return False
