"""Names that people give: of artifacts, tasks and channels."""

import re

NAME_RULE = "letters, digits, '.', '_' and '-', starting with a letter or digit, without '..'"

_VERSION = re.compile(r"v?0*(\d+)")


def check_name(name: str) -> str:
    """``name`` itself, or ``ValueError`` where it could leave its folder or confuse a shell."""
    plain = name.replace(".", "a").replace("_", "a").replace("-", "a")
    if not (name[:1].isalnum() and plain.isascii() and plain.isalnum()) or ".." in name or len(name) > 80:
        raise ValueError(f"{name!r} is not a usable name: use {NAME_RULE}, at most 80 characters")
    return name


def check_channel(channel: str) -> str:
    """``channel`` itself, or ``ValueError`` where it is no name or could be taken for a version."""
    check_name(channel)
    if channel == "latest" or parse_version(channel) is not None:
        raise ValueError(f"{channel!r} names a version already; call the channel something like stable")
    return channel


def parse_version(text: str) -> int | None:
    """The number in ``12``, ``v12`` or ``v000012``; ``None`` for anything else."""
    match = _VERSION.fullmatch(text)
    return int(match[1]) if match and text.isascii() else None
