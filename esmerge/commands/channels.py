"""promote, rollback, channels: which version consumers of a channel load."""

from typing import Annotated, Any

import typer

from esm_core.artifacts import version_numbers
from esm_core.channel_log import Entry
from esm_core.channels import channels, history, promote, rollback
from esm_core.claims import version_label
from esm_core.storage import Location
from esmerge.arguments import JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.output import out, print_json, print_table

ChannelOption = Annotated[str, typer.Option(help="Name of the channel, such as stable.")]
NoteOption = Annotated[str | None, typer.Option(help="Why, for the channel's history.")]
ByOption = Annotated[str | None, typer.Option(help="Who, for the channel's history.")]


def promote_command(
    name: NameArgument,
    version: VersionArgument,
    channel: ChannelOption,
    store: StoreOption,
    note: NoteOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a channel point to a version, once every file of it is verified."""
    done = promote(Location.parse(store), name, version, channel, note, by)
    label = version_label(done.entry.version)
    if as_json:
        print_json({"moved": done.moved, "channel": channel, **_facts(done.entry)})
    elif done.moved:
        out.print(f"{name} {channel} → {label}")
    else:
        out.print(
            f"{name} {channel} points to {label} already, since {done.entry.created}: nothing was changed"
        )


def rollback_command(
    name: NameArgument,
    channel: ChannelOption,
    store: StoreOption,
    to: Annotated[str | None, typer.Option(help="An earlier version, instead of the one before.")] = None,
    note: NoteOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a channel point to the version it pointed to before; again, to the one before that."""
    done = rollback(Location.parse(store), name, channel, to, note, by)
    if as_json:
        print_json({"moved": done.moved, "channel": channel, **_facts(done.entry)})
    else:
        out.print(f"{name} {channel} → {version_label(done.entry.version)} (rolled back)")


def channels_command(
    name: NameArgument,
    store: StoreOption,
    channel: Annotated[str | None, typer.Option(help="Show the history of this channel.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where the channels of an artifact point, or the history of one."""
    root = Location.parse(store)
    if channel is not None:
        entries = history(root, name, channel)
        if as_json:
            print_json([_facts(entry) for entry in entries])
        else:
            _print(f"{name} {channel}", "#", {str(entry.number): entry for entry in entries})
        return
    found = channels(root, name)
    if as_json:
        print_json({name: _facts(entry) for name, entry in found.items()})
    elif found:
        _print(name, "channel", found)
    else:
        published = "" if version_numbers(root, name) else "no published version and "
        out.print(f"{name} has {published}no channel in {root}")


def _facts(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _print(title: str, first: str, entries: dict[str, Entry]) -> None:
    rows = [
        [label, version_label(e.version), e.action, e.created, e.by or "", e.note or ""]
        for label, e in entries.items()
    ]
    print_table(title, "", [first, "version", "action", "created", "by", "note"], rows)
