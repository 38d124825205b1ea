"""The code blocks of README.md and docs/, and what a shell block asks to run."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)

_FENCE = re.compile(r"^ *```(?P<info>\S*)[^\n]*\n(?P<text>.*?)^ *```\s*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_HEREDOC = re.compile(r"<<-?\s*'(\w+)'")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line of text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line, and the text it is given where that is written below it."""

    page: str
    line: int
    text: str
    given: str = ""

    @property
    def plain(self) -> str:
        """The command without variables in front: ``esmerge plan x`` for ``A=1 esmerge plan x``."""
        return re.sub(r"^(\w+=[^$\s]\S* +)+", "", self.text)

    @property
    def program(self) -> str:
        return self.plain.split()[0]

    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = (ROOT / page).read_text()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["info"], _dedented(match["text"])))
    return found


def inline_code(page: str) -> list[str]:
    """Every code span outside of fenced blocks."""
    return _INLINE.findall(_FENCE.sub("", (ROOT / page).read_text()))


def commands(block: Block) -> list[Command]:
    """The command lines of a shell block: joined where continued, without prompts, output and comments."""
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), start=block.line))
    for number, line in lines:
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        joined = line
        while joined.rstrip().endswith(("\\", "|")) or _open_quote(joined):
            _, more = next(lines)
            joined = f"{joined.rstrip().removesuffix(chr(92)).rstrip()} {more.strip()}"
        text = re.sub(r"(^|\s)#.*$|\s†\s*$", "", joined).strip()
        given = ""
        if heredoc := _HEREDOC.search(text):
            body = []
            for _, more in lines:
                if more == heredoc[1]:
                    break
                body.append(more)
            given = "\n".join(body) + "\n"
        if text:
            found.append(Command(block.page, number, text, given))
    return found


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("bash", "console")]


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _dedented(text: str) -> str:
    lines = text.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "".join(f"{line[margin:]}\n" for line in lines)
