"""Which versions of an artifact are kept, and why."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from esm_core.artifacts import MANIFEST, Manifest, open_version
from esm_core.channel_log import Entry, channel_names, read_log
from esm_core.channels import rollback_targets
from esm_core.claims import CLAIM, HELD, version_label, version_number
from esm_core.errors import InputError
from esm_core.gc.report import Garbage, Kept, Policy, Report, span
from esm_core.storage import Location

Entries = dict[str, tuple[int, datetime]]


@dataclass(frozen=True)
class Collected:
    """What becomes of an artifact's versions: ``report``, and the manifests of those that stay."""

    report: Report
    manifests: dict[int, Manifest]


def collect_versions(
    store: Location, name: str, policy: Policy, now: datetime, held: str | None
) -> Collected:
    """Judge every version of an artifact. Manifests that cannot be read, and their versions, stay.

    Parameters
    ----------
    held : str, optional
        What keeps all of them, such as a lease.
    """
    folder, report = store / "artifacts" / name, Report()
    files: dict[int, Entries] = defaultdict(dict)
    for path, facts in folder.entries().items():
        if (number := version_number(path.partition("/")[0])) is not None:
            files[number][path] = facts
    committed = sorted(n for n in files if f"{version_label(n)}/{MANIFEST}" in files[n])
    manifests: dict[int, Manifest] = {}
    reasons: dict[int, str] = {}
    for number in committed:
        try:
            manifests[number] = open_version(store, name, number).manifest
        except InputError as error:
            if not (folder / version_label(number) / MANIFEST).is_file():
                continue  # deleted by another collection meanwhile
            reasons[number] = "its manifest cannot be read"
            report.notes.append(f"{error} This version is left as it is.")
    try:
        logs = {channel: read_log(folder, channel) for channel in channel_names(folder)}
    except InputError as error:
        report.notes.append(f"{error} All versions of {name} stay until then.")
        logs, held = {}, held or "a channel cannot be read"
    readable = sorted(manifests)
    times = _last_current(readable, files, logs)
    for number in sorted([*readable, *reasons]):
        reason = reasons.get(number) or held or _kept_by(number, readable, logs, policy, times, now)
        path, size = f"artifacts/{name}/{version_label(number)}", _size(files[number])
        if reason is not None:
            report.kept.append(Kept(path, size, reason))
            continue
        manifests.pop(number)
        why = f"not one of the newest {policy.keep}, in no channel, not current for {span(policy.min_age)}"
        report.garbage.append(Garbage(path, size, why, (f"{path}/{CLAIM}", f"{path}/{MANIFEST}")))
        report.retired[name] = number
    for number in sorted(set(files) - set(committed)):
        _judge_unfinished(name, number, files[number], policy, now, held, report)
    return Collected(report, manifests)


def _last_current(
    committed: list[int], files: dict[int, Entries], logs: dict[str, list[Entry]]
) -> dict[int, datetime]:
    """When each version was last the latest one, or one that a channel pointed to: it may still be read."""
    published = {n: files[n][f"{version_label(n)}/{MANIFEST}"][1] for n in committed}
    last = {n: max(published[n], published[after]) for n, after in pairwise(committed)}
    last |= {n: published[n] for n in committed[-1:]}
    for entries in logs.values():
        for entry, after in pairwise(entries):
            if entry.version in last:
                last[entry.version] = max(last[entry.version], after.time)
    return last


def _kept_by(
    number: int,
    committed: list[int],
    logs: dict[str, list[Entry]],
    policy: Policy,
    times: dict[int, datetime],
    now: datetime,
) -> str | None:
    if number == committed[-1]:
        return "latest"
    for channel, entries in logs.items():
        if entries[-1].version == number:
            return f"channel {channel}"
    for channel, entries in logs.items():
        if rollback_targets(entries, committed)[:1] == [number]:
            return f"a rollback of channel {channel} goes there"
    if number in committed[-max(policy.keep, 1) :]:
        return f"one of the newest {policy.keep}"
    if now - times[number] < policy.min_age:
        return f"was current within {span(policy.min_age)}"
    return None


def _judge_unfinished(
    name: str, number: int, files: Entries, policy: Policy, now: datetime, held: str | None, report: Report
) -> None:
    """A number without manifest: a publisher at work, one that died, or a deletion that was interrupted."""
    label = version_label(number)
    path, size = f"artifacts/{name}/{label}", _size(files)
    age = now - max(time for _, time in files.values())
    # A publisher's first file is its claim. Locally that has another name for an instant.
    claimed = f"{label}/{CLAIM}" in files or all(file.endswith(".tmp") for file in files)
    grace = max(policy.min_age, HELD) if claimed else timedelta(0)
    if held is not None or age < grace:
        why = held or f"is being published (claimed, and written to within {span(grace)})"
        report.kept.append(Kept(path, size, why))
        return
    why = "never published, and not written to" if claimed else "left by a deletion that was interrupted"
    after = f" for {span(grace)}" if claimed else ""
    report.garbage.append(Garbage(path, size, why + after, (f"{path}/{CLAIM}",), f"{path}/{MANIFEST}"))
    report.retired[name] = max(number, report.retired.get(name, 0))


def _size(files: Entries) -> int:
    return sum(size for size, _ in files.values())
