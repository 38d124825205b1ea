"""promote, rollback, channels: which version consumers of a channel load."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from esmerge.arguments import ChannelOption, JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.command import Command, Panel
from esmerge.completion import complete_channel, complete_version
from esmerge.output import out, print_json, print_table

if TYPE_CHECKING:
    from esm_core.channel_log import Entry

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
    from esm_core.channels import promote
    from esm_core.claims import version_label
    from esm_core.storage import Location

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
    to: Annotated[
        str | None,
        typer.Option(help="An earlier version, instead of the one before.", autocompletion=complete_version),
    ] = None,
    note: NoteOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a channel point to the version it pointed to before; again, to the one before that."""
    from esm_core.channels import rollback
    from esm_core.claims import version_label
    from esm_core.storage import Location

    done = rollback(Location.parse(store), name, channel, to, note, by)
    if as_json:
        print_json({"moved": done.moved, "channel": channel, **_facts(done.entry)})
    else:
        out.print(f"{name} {channel} → {version_label(done.entry.version)} (rolled back)")


def channels_command(
    name: NameArgument,
    store: StoreOption,
    channel: Annotated[
        str | None, typer.Option(help="Show the history of this channel.", autocompletion=complete_channel)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where the channels of an artifact point, or the history of one."""
    from esm_core.artifacts import version_numbers
    from esm_core.channels import channels, history
    from esm_core.storage import Location

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


def _facts(entry: "Entry") -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _print(title: str, first: str, entries: "dict[str, Entry]") -> None:
    from esm_core.claims import version_label

    rows = [
        [label, version_label(e.version), e.action, e.created, e.by or "", e.note or ""]
        for label, e in entries.items()
    ]
    print_table(title, "", [first, "version", "action", "created", "by", "note"], rows)


_ENTRY = '"version": 12, "action": "promote", "created": "...", "by": "ann", "note": "better"'

COMMANDS = (
    Command(
        "promote",
        promote_command,
        Panel.VERSIONS,
        (
            "$ esmerge promote pets 12 --channel stable --store store",
            '$ esmerge promote pets latest --channel canary --store store --by ann --note "new cars"',
        ),
        f'{{"moved": true, "channel": "stable", "number": 3, {_ENTRY}}}',
    ),
    Command(
        "rollback",
        rollback_command,
        Panel.VERSIONS,
        (
            "$ esmerge rollback pets --channel stable --store store",
            "$ esmerge rollback pets --channel stable --store store --to 7",
        ),
        f'{{"moved": true, "channel": "stable", "number": 4, {_ENTRY.replace("promote", "rollback")}}}',
    ),
    Command(
        "channels",
        channels_command,
        Panel.VERSIONS,
        (
            "$ esmerge channels pets --store store  # where each points",
            "$ esmerge channels pets --store store --channel stable  # its history",
        ),
        f'{{"stable": {{"number": 3, {_ENTRY}}}}}',
    ),
)
