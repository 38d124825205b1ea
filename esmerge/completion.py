"""What the shell offers after TAB: artifacts, versions and channels of the ``--store`` that was typed.

Only listings are read, for a moment at most; where nothing can be known, nothing is offered.
"""

import contextlib
import threading
from collections.abc import Callable

import typer

SECONDS = 2.0
"""How long a listing may take."""


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Names of artifacts in the store."""

    def names(store: str) -> list[str]:
        from esm_core.storage import Location

        return (Location.parse(store) / "artifacts").children()

    return _offered(context, incomplete, names)


def complete_version(context: typer.Context, incomplete: str) -> list[str]:
    """``latest``, channels and versions, the newest first."""

    def versions(store: str) -> list[str]:
        from esm_core.artifacts import artifact_folder
        from esm_core.channel_log import channel_names
        from esm_core.claims import claimed_numbers, version_label
        from esm_core.storage import Location

        folder = artifact_folder(Location.parse(store), _artifact(context))
        labels = [version_label(number) for number in sorted(claimed_numbers(folder), reverse=True)]
        return ["latest", *channel_names(folder), *labels]

    return _offered(context, incomplete, versions)


def complete_channel(context: typer.Context, incomplete: str) -> list[str]:
    """Channels of the artifact."""

    def channels(store: str) -> list[str]:
        from esm_core.artifacts import artifact_folder
        from esm_core.channel_log import channel_names
        from esm_core.storage import Location

        return channel_names(artifact_folder(Location.parse(store), _artifact(context)))

    return _offered(context, incomplete, channels)


def _artifact(context: typer.Context) -> str:
    # While an option waits for its value, what is no option is not taken apart yet; the name comes first.
    return str(context.params.get("name") or next(iter(context.args), ""))


def _offered(context: typer.Context, incomplete: str, listed: Callable[[str], list[str]]) -> list[str]:
    store = context.params.get("store")
    if not store:
        return []
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(Exception):  # nothing a shell could show
            found.extend(listed(str(store)))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(SECONDS)
    return [item for item in list(found) if item.startswith(incomplete)]
