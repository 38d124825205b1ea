"""Every command and code block of README.md and docs/ runs, or is listed here with the reason why not.

A page is read from its top in a folder of its own (``tests/reader.py``), as a reader would go through it:
``esmerge`` commands run in this process, Python runs, YAML and JSON go through what reads them. Where merges
are run, their stages run without Prefect. What stands for the reader's own (``s3://models/``, ``NAME``) is in
``reader.SUBSTITUTED``. What is listed below is not run, but checked word by word.
"""

import ast
import fnmatch
import importlib
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from documents import PAGES, ROOT, Block, blocks, commands, inline_code, shell_blocks
from documents import Command as Line
from reader import build_folder, run_merge, substituted
from services import Command, Outcome

from esm_core.recipe_file import parse_recipe
from esm_core.registry.finetune import FineTune
from esm_core.storage import Location
from esmerge.cli import app

LANGUAGES = {"bash", "console", "python", "yaml", "json", "toml", "text"}

NOT_RUN = [
    # (pages, what the command line begins with, why it is not run)
    ("*", "make ", "sets up an environment of its own; takes minutes; its target is checked"),
    ("*", "git ", "needs the network"),
    ("*", "cd ", "the reader's own folder"),
    ("*", "pip install", "needs the network"),
    ("*", "source ", "the reader's own shell"),
    ("*", "export ", "the reader's own shell"),
    ("docs/experts.md", "python benchmarks/", "takes an hour; its options are checked"),
    ("docs/operations.md", "aws ", "needs an AWS account"),
    ("docs/operations.md", "docker ", "needs a container engine"),
    ("docs/operations.md", "kubectl ", "needs a Kubernetes cluster"),
    ("docs/operations.md", "createdb ", "needs PostgreSQL"),
    ("docs/operations.md", "prefect ", "needs a Prefect server; tests/deployments runs one"),
    ("*", "dask ", "starts a server; tests/flows/test_dask.py does"),
    ("*", "python -m deployments.register", "needs a Prefect server; `make stack` runs it"),
    ("docs/operations.md", "token=$(curl", "needs a Prefect server with an auth string"),
    ("docs/operations.md", "curl ", "needs a Prefect server with an auth string"),
    ("docs/operations.md", "for part in", "sets variables of the reader's own shell"),
    ("docs/operations.md", "done", "ends the loop above"),
    ("docs/operations.md", "esmerge plan s3://BUCKET/recipe.yaml", "the recipe is made by the reader above"),
    ("docs/stack.md", "python -c", "needs S3: tests/deployments/test_stack.py does the same"),
    ("docs/stack.md", "curl ", "needs a Prefect server"),
    (
        "docs/stack.md",
        "esmerge land s3://esmerge",
        "needs the stack: tests/deployments/test_stack.py lands there",
    ),
]

MADE_FROM_THE_COMMAND_LINE = "docs/cli.md"
"""Usage and examples as text, made by ``python -m esmerge.reference``: checked word by word."""

PYTHON_RUN_ELSEWHERE = {"docs/extending.md": "tests/extending/acme.py"}
"""Pages whose Python is a package of its own, and who installs and runs it from the page."""

GIVEN = """
import torch
from PIL import Image
image = Image.open("images/cars/0.png").convert("RGB")
images = torch.rand(4, 3, 16, 16)
"""
"""What a page's Python is given, since every reader has images of their own."""


# What is in the pages.


def test_there_are_pages_with_blocks() -> None:
    assert "README.md" in PAGES
    assert sum(len(blocks(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is_in(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: ```{block.language} is none of {sorted(LANGUAGES)}"
        if block.language == "text" and page != MADE_FROM_THE_COMMAND_LINE:
            hidden = [
                line for line in block.text.splitlines() if re.match(r"(\$ |esmerge |make |python )", line)
            ]
            assert not hidden, f"{block}: a command in a block of text"
    fences = len(re.findall(r"^ *```", (ROOT / page).read_text(), re.MULTILINE))
    assert fences == 2 * len(blocks(page)), page


def reason_not_to_run(line: Line) -> str | None:
    for pages, beginning, reason in NOT_RUN:
        if fnmatch.fnmatch(line.page, pages) and line.plain.startswith(beginning):
            return reason
    return None


def all_lines() -> list[Line]:
    return [line for page in PAGES for block in shell_blocks(page) for line in commands(block)]


def test_what_is_not_run_is_there() -> None:
    for pages, beginning, _ in NOT_RUN:
        used = [x for x in all_lines() if fnmatch.fnmatch(x.page, pages) and x.plain.startswith(beginning)]
        assert used, f"no page has {beginning!r} any more: take it off the list"


# Word by word, for every command, run or not.


@cache
def command_line() -> dict[str, set[str]]:
    """Every subcommand of esmerge and its options."""
    group: Any = typer.main.get_command(app)
    return {
        name: {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()
    }


def check_esmerge(words: list[str], where: object) -> None:
    own = words[words.index("esmerge") + 1 :]
    own = own[: next((i for i, word in enumerate(own) if word in ("|", "&&", ";", ">")), len(own))]
    if not own or own[0].startswith("-"):
        return
    assert own[0] in command_line(), f"{where}: esmerge has no command {own[0]}"
    for word in own[1:]:
        option = word.partition("=")[0].strip("[]()")
        if option.startswith("-") and option != "--" and not re.fullmatch(r"-\d.*", option):
            assert option in command_line()[own[0]], f"{where}: esmerge {own[0]} has no option {option}"


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_make(words: list[str], where: object) -> None:
    for word in words[words.index("make") + 1 :]:
        if re.fullmatch(r"[a-z][a-z-]*", word):
            assert word in make_targets(), f"{where}: there is no target {word}"


def check_python(words: list[str], where: object) -> None:
    """``python file.py`` and ``python -m module``: it exists and knows the options."""
    arguments = words[words.index("python") + 1 :]
    module = arguments[1] if arguments[:1] == ["-m"] else None
    script = arguments[0] if arguments and arguments[0].endswith(".py") else None
    if module is None and script is None:
        return
    if module is not None:
        if not (ROOT / module.split(".")[0]).is_dir():
            assert importlib.util.find_spec(module.split(".")[0]), f"{where}: no module {module}"
            return
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{where}: no module {module}"
        sources = [path] if path.is_dir() else [path.with_suffix(".py")]
    elif script.startswith("mine/"):
        return  # the reader has just written it
    else:
        assert (ROOT / script).is_file(), f"{where}: there is no {script}"
        sources = [ROOT / script, *(ROOT / script).parent.glob("*/*.py")]
    files = [file for source in sources for file in (source.glob("**/*.py") if source.is_dir() else [source])]
    text = "\n".join(file.read_text() for file in files)
    for word in arguments[1:]:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in text, f"{where}: no option {word}"


def check_words(text: str, where: object) -> None:
    words = shlex.split(text, comments=True)
    checks = {"esmerge": check_esmerge, "make": check_make, "python": check_python}
    if words and words[0] in checks:
        checks[words[0]](words, where)


@pytest.mark.parametrize("page", PAGES)
def test_commands_subcommands_options_and_targets_exist(page: str) -> None:
    for block in shell_blocks(page):
        for line in commands(block):
            check_words(line.plain, line)
    if page == MADE_FROM_THE_COMMAND_LINE:
        for block in blocks(page):
            for text in block.text.splitlines() if block.language == "text" else []:
                check_words(text, block)
    for code in inline_code(page):
        if re.match(r"(esmerge|make|python) [a-z-]", code):
            check_words(code.replace("'", ""), f"{page}: `{code}`")


@pytest.mark.parametrize("page", PAGES)
def test_shell_is_shell(page: str) -> None:
    for block in shell_blocks(page):
        script = "\n".join(
            f"{line.text}\n{line.given}END" if line.given else line.text for line in commands(block)
        )
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert checked.returncode == 0, f"{block}: {checked.stderr}"


OURS = (
    "esm_core",
    "tasks",
    "flows",
    "deployments",
    "esmerge",
    "demo",
    "benchmarks",
    "tests",
    "docs_tools",
    "docs",
)


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_repository_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    places = re.findall(rf"(?<![\w./}}-])((?:{'|'.join(OURS)})/[\w./*-]*[\w*/])", text)
    for place in {place.rstrip("/") for place in places if "*" not in place}:
        if place not in ("esmerge/recipe.yaml", "esmerge/prefect"):  # in a bucket, and in the cache folder
            assert (ROOT / place).exists(), f"{page}: there is no {place}"


@pytest.mark.parametrize("page", PAGES)
def test_python_imports_what_there_is(page: str) -> None:
    for block in blocks(page):
        if block.language != "python" or page in PYTHON_RUN_ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{block}: {node.module} has no {alias.name}"


# Running them.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reader") / "reader"
    root.mkdir()
    build_folder(root)
    return root


@pytest.fixture
def own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder, as it was, and the current one. It has one path, since results know theirs."""
    kept = folder.with_name("kept")
    if not kept.exists():
        subprocess.run(["cp", "-a", folder, kept], check=True)
    subprocess.run(["rm", "-r", folder], check=True)
    subprocess.run(["cp", "-a", kept, folder], check=True)  # quicker than shutil
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(
        "deployments.local.Run.merge", lambda run, recipe, workers: run_merge(recipe, workers)
    )
    return folder


Runner = Callable[[Block], object]


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language != "text" for b in blocks(page))])
def test_a_page_runs_from_top_to_bottom(page: str, own_folder: Path, esmerge: Command) -> None:
    names: dict[str, Any] = {}
    exec(GIVEN, names)  # noqa: S102
    run: dict[str, Runner] = {
        "bash": lambda block: run_shell(block, own_folder, esmerge, names),
        "console": lambda block: run_shell(block, own_folder, esmerge, names),
        "python": lambda block: run_python(block, own_folder, names),
        "yaml": lambda block: check_yaml(block, own_folder),
        "json": lambda block: json.loads(block.text),
        "toml": lambda block: tomllib.loads(block.text),
        "text": lambda block: None,
    }
    for block in blocks(page):
        if block.language != "python" or page not in PYTHON_RUN_ELSEWHERE:
            run[block.language](block)


@pytest.mark.parametrize(("page", "runner"), PYTHON_RUN_ELSEWHERE.items())
def test_python_that_is_run_elsewhere_is(page: str, runner: str) -> None:
    assert Path(page).name in (ROOT / runner).read_text()


def run_shell(block: Block, root: Path, esmerge: Command, names: dict[str, Any]) -> None:
    for line in commands(block):
        if reason_not_to_run(line):
            continue
        if line.program == "esmerge":
            done = run_esmerge(line, root, esmerge)
            assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        elif line.program == "python" and line.words()[1].endswith(".py"):
            run_python(Block(line.page, line.line, "python", Path(line.words()[1]).read_text()), root, names)
        elif line.program in ("mkdir", "cp", "ls", "cat"):
            text = f"{line.text}\n{line.given}END\n" if line.given else line.text
            subprocess.run(["bash", "-ec", substituted(text, root)], check=True, cwd=root)
        else:
            pytest.fail(f"{line}\nis neither run nor listed in NOT_RUN with a reason")


def run_esmerge(line: Line, root: Path, esmerge: Command) -> Outcome:
    text, _, target = line.text.partition(" > ")
    words = shlex.split(substituted(text, root), comments=True)
    shutil.rmtree(root / "out", ignore_errors=True)
    done = esmerge(*words[words.index("esmerge") + 1 :])
    if target:
        Path(target.strip()).write_text(done.out)
    return done


def run_python(block: Block, root: Path, names: dict[str, Any]) -> None:
    """As a script of the page: what a block above has set is still there."""
    # Lines are counted as in the page.
    code = "\n" * (block.line - 1) + substituted(block.text, root)
    exec(compile(code, str(ROOT / block.page), "exec"), names)  # noqa: S102


WHOLE = {"name": "a", "store": "s", "base": {"checkpoint": "b"}}
TWO = [{"name": name, "checkpoint": "c", "proxy": "p"} for name in ("x", "y")]


def check_yaml(block: Block, root: Path) -> None:
    """A recipe, a part of one, or the file of a landed fine-tune; and what names a file is written there."""
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict), f"{block}: no mapping"
    if "format" in content:
        FineTune.model_validate(json.loads(json.dumps(content).replace("...", "0" * 48)))
        return
    rest = {} if "tasks" in content or "tasks_from" in content else {"tasks": TWO}
    whole = yaml.safe_dump({**WHOLE, **rest, **content})
    parse_recipe(
        whole if {"name", "store"} - set(content) else block.text, Location.parse(str(root / "r.yaml"))
    )
    if named := re.match(r"# (\S+\.yaml)\b", block.text):
        (root / named[1]).write_text(substituted(block.text, root))
