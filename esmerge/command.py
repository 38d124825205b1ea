"""What the command line knows of a command beside its function."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import typer


class Panel(StrEnum):
    """The groups of commands in ``esmerge --help``, in order."""

    MERGE = "Merge"
    VERSIONS = "Published versions"
    REGISTRY = "Registry"
    OPERATIONS = "Operations"


@dataclass(frozen=True)
class Command:
    """A command, its examples, and what it prints as JSON.

    Attributes
    ----------
    name : str
    function : callable
        Its docstring is the help: one sentence, then details.
    panel : Panel
    examples : tuple of str
        Command lines, each with its purpose after two spaces and ``#``.
    json : str
        An example of what ``--json`` prints, as JSON; ``...`` in a text stands for the rest.
    """

    name: str
    function: Callable[..., Any]
    panel: Panel
    examples: tuple[str, ...]
    json: str

    def add_to(self, app: typer.Typer) -> None:
        register = app.command(
            self.name,
            help=paragraphs(inspect.getdoc(self.function) or ""),
            rich_help_panel=self.panel.value,
            epilog=epilog("Examples", self.examples),
        )
        register(self.function)


def paragraphs(text: str) -> str:
    """A docstring as typer prints it: it keeps the line breaks in paragraphs, which are the source's."""
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.split("\n\n"))


def epilog(title: str, lines: Iterable[str]) -> str:
    """What stands below a help, each line by itself."""
    return "\n".join([f"{title}:", *("  " + line.replace("[", r"\[") for line in lines)])
