"""The esmerge command: the commands of :mod:`esmerge.commands` put together."""

import sys
from typing import Annotated

import typer

from deployments.local import configure_environment

configure_environment()

from esmerge.command import Panel, epilog, paragraphs  # noqa: E402
from esmerge.commands import channels, doctor, files, gc, init, merging, registry, versions  # noqa: E402
from esmerge.failures import EXIT_CODES, guarded  # noqa: E402

COMMANDS = (
    *init.COMMANDS,
    *merging.COMMANDS,
    *versions.COMMANDS,
    *channels.COMMANDS,
    *files.COMMANDS,
    *registry.COMMANDS,
    *doctor.COMMANDS,
    *gc.COMMANDS,
)

ABOUT = """Merge fine-tuned open_clip vision models into one, without training.

Start with esmerge init FOLDER, which writes a recipe for a folder of checkpoints; then esmerge plan and
esmerge merge. Every command says more, with examples, after --help. With --json, standard output holds
exactly one JSON document, on errors too; messages and progress are on standard error."""

app = typer.Typer(
    epilog=epilog("Exit codes", (f"{code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"esmerge {version('esmerge')}\n")
        raise typer.Exit


@app.callback(help=paragraphs(ABOUT))
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """What can be given before a command."""


for command in sorted(COMMANDS, key=lambda command: list(Panel).index(command.panel)):
    command.add_to(app)


def main() -> None:
    """Run the command; one clear message and the right exit code instead of a traceback."""
    sys.exit(guarded(lambda: app(prog_name="esmerge", standalone_mode=False), sys.argv[1:]))


if __name__ == "__main__":
    main()
