"""The esmerge command. Exit codes: 0 done, 2 bad input (nothing published), 1 anything else."""

import sys

import typer

from deployments.local import configure_environment

configure_environment()

from esm_core.errors import EsmergeError  # noqa: E402
from esmerge.commands import channels, files, gc, merging, registry, report, versions  # noqa: E402

app = typer.Typer(
    help="Merge fine-tuned open_clip vision models into one, without training.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("plan")(merging.plan_command)
app.command("merge")(merging.merge_command)
app.command("versions")(versions.versions_command)
app.command("show")(versions.show_command)
app.command("verify")(versions.verify_command)
app.command("report")(report.report_command)
app.command("compare")(report.compare_command)
app.command("promote")(channels.promote_command)
app.command("rollback")(channels.rollback_command)
app.command("channels")(channels.channels_command)
app.command("gc")(gc.gc_command)
app.command("export")(files.export_command)
app.command("convert")(files.convert_command)
app.command("land")(registry.land_command)
app.command("registry")(registry.registry_command)
app.command("schema")(merging.schema_command)


def main() -> None:
    """Run the command; one clear message and the right exit code instead of a traceback."""
    try:
        app()
    except EsmergeError as error:
        sys.stderr.write(f"esmerge: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
