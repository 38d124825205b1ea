"""docs/cli.md, made from the commands themselves: ``python -m esmerge.reference > docs/cli.md``."""

import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from esmerge.cli import ABOUT, COMMANDS, app
from esmerge.command import Panel, paragraphs
from esmerge.failures import EXIT_CODES

ENVIRONMENT = {
    "AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION": "Access to S3, "
    "as for every AWS tool. Credentials come from here or from a profile only, and are shown nowhere.",
    "AWS_ENDPOINT_URL": "An S3 server other than AWS (`AWS_ENDPOINT_URL_S3` goes first).",
    "AWS_MAX_ATTEMPTS, AWS_RETRY_MODE": "Patience with S3, instead of [6 attempts](storage.md).",
    "ESMERGE_WORKERS": "Tasks at a time of `merge`; one per core where not set. `--workers` goes first.",
    "ESMERGE_THREADS": "Threads of a task; 1 where not set. Another number gives other bits.",
    "OMP_NUM_THREADS": "Set to `ESMERGE_THREADS` where it is not set.",
    "THP_MEM_ALLOC_ENABLE": "Set to 1 where it is not set: torch asks Linux for huge pages, which is faster.",
    "ESMERGE_RUNNER": "`threads` or `dask`; `dask` where `ESMERGE_DASK_ADDRESS` is set.",
    "ESMERGE_DASK_ADDRESS": "Scheduler of the Dask cluster that tasks run on, such as `tcp://scheduler:8786`.",
    "PREFECT_API_URL, PREFECT_API_AUTH_STRING": "The Prefect server that shows the runs; where not set, each "
    "merge starts one for itself. Other settings and profiles of Prefect count too.",
    "PREFECT_HOME": "Prefect's files; where nothing of Prefect is set up, `esmerge/prefect` in the cache "
    "folder (`XDG_CACHE_HOME`, else `~/.cache`).",
    "TMPDIR": "The folder that PyTorch checkpoints on S3 are downloaded to.",
    "NO_COLOR": "Set to anything: no colours on a terminal. There are none in a pipe.",
}
"""What the command reads from its environment."""

_ERROR = {
    "error": {
        "kind": "InputError",
        "message": "2 problems: ...",
        "problems": ["task cars: ...", "task signs: ..."],
        "exit_code": 2,
    }
}


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join(_page()).rstrip("\n") + "\n"


def _page() -> Iterator[str]:
    yield "# Command line"
    yield "\n<!-- Made by: python -m esmerge.reference > docs/cli.md -->\n"
    yield paragraphs(ABOUT)
    yield "\n## Exit codes\n"
    yield from _table(("Code", "Meaning"), ((str(code), meaning) for code, meaning in EXIT_CODES.items()))
    yield from _about_output()
    yield "\n## Environment variables\n"
    names = (", ".join(f"`{n}`" for n in name.split(", ")) for name in ENVIRONMENT)
    yield from _table(("Variable", "Meaning"), zip(names, ENVIRONMENT.values(), strict=True))
    group: Any = typer.main.get_command(app)
    panels = dict.fromkeys([*Panel, *(c.rich_help_panel or "Commands" for c in group.commands.values())])
    for panel in panels:
        found = [c for c in group.commands.values() if (c.rich_help_panel or "Commands") == panel]
        if found:
            yield f"\n## {panel}"
        for command in found:
            yield from _command(command)


def _about_output() -> Iterator[str]:
    yield "\n## Output\n"
    yield (
        "Results are on standard output, messages and progress on standard error. An error is one message "
        "there, that begins with `esmerge: ` and says what was wrong, what was expected, and what to do.\n"
    )
    yield (
        "With `--json`, which every command takes, standard output holds exactly one JSON document. On an "
        "error that is the following, and the message is on standard error all the same (`doctor` and `gc` "
        "print their own document with exit code 1 where a check or a deletion failed):\n"
    )
    yield f"```json\n{json.dumps(_ERROR, indent=2)}\n```\n"
    yield (
        "Below, `...` in an example stands for the rest of a text, and objects may hold more keys than are "
        "shown. `merge` shows bars on a terminal, else one line per part, and nothing with `--quiet`.\n"
    )
    yield (
        "`esmerge --install-completion` makes the shell complete commands, options, and the artifacts, "
        "versions and channels of the `--store` that was typed before. `esmerge --version` prints the "
        "version."
    )


def _command(command: Any) -> Iterator[str]:
    known = next((c for c in COMMANDS if c.name == command.name), None)
    yield f"\n### esmerge {command.name}\n"
    yield paragraphs(inspect.cleandoc(command.help or "")) + "\n"
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    words = [f"{_metavar(p)}" if p.required else f"[{_metavar(p)}]" for p in arguments]
    yield f"```text\nesmerge {' '.join([command.name, *words, '[OPTIONS]'])}\n```\n"
    rows = ((_names(param), param.help + _more(param)) for param in command.params)
    yield from _table(("Argument or option", "Meaning"), rows)
    lines = [line.strip() for line in (command.epilog or "").split("\n") if line.strip().startswith("$ ")]
    if lines:
        yield "\n```text\n" + "\n".join(line[2:].replace(r"\[", "[") for line in lines) + "\n```"
    if known is not None:
        yield f"\nWith `--json`:\n\n```json\n{json.dumps(json.loads(known.json), indent=2)}\n```"


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_metavar(param)}`"
    value = "" if param.is_flag else f" {_metavar(param)}"
    return ", ".join(f"`{name}{value}`" for name in [*param.opts, *param.secondary_opts])


def _metavar(param: Any) -> str:
    return str(param.name).upper()


def _more(param: Any) -> str:
    shown = param.show_default if isinstance(param.show_default, str) else param.default
    facts = [
        *(["Required."] if param.required else []),
        *([f"Default: {shown}."] if shown not in (None, False, True, "") else []),
        *([f"Also: `{param.envvar}`."] if param.envvar else []),
    ]
    return "".join(f" {fact}" for fact in facts)


def _table(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |\n|---|---|"
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) + " |"


if __name__ == "__main__":
    sys.stdout.write(reference())
