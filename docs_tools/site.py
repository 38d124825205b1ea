"""The site's hook: pages that live outside ``docs/``, and links that work on the site and in the repository.

A link is written as the repository has it (``../benchmarks/RESULTS.md`` in a page of ``docs/``), so that it
works wherever Markdown is read; here it becomes the address of the page on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs"
ELSEWHERE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "benchmarks/*.svg",
    "benchmarks/quality_plots/*.svg",
)
"""What the site shows beside ``docs/``: patterns below the repository's root."""

IF_THERE = ("report.md", "benchmarks/QUALITY.md")
"""Pages that are left out of the navigation where they are not there (yet)."""

_LINK = re.compile(r"(?P<head>!?\[[^\]]*\]\()(?P<target>[^)\s]+)(?P<tail>\))")
_FENCE = re.compile(r"^( {0,3}```.*?^ {0,3}```[^\n]*$)", re.MULTILINE | re.DOTALL)
_DIAGRAM = re.compile(r"^!\[(?P<alt>[^\]]*)\]\((?P<file>architecture\.svg)\)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave pages that are not there, and may not be, out of the navigation."""
    missing = {page for page in IF_THERE if not (ROOT / DOCS / page).exists() and not (ROOT / page).exists()}
    config.nav = [_without(entry, missing) for entry in config.nav or []]
    return config


def _without(entry: Any, missing: set[str]) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {
        title: [_without(e, missing) for e in below if not (isinstance(e, dict) and missing & {*e.values()})]
        if isinstance(below, list)
        else below
        for title, below in entry.items()
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the site shows from outside of ``docs/``, at the paths it has in the repository."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links as the site needs them, and the diagram as a part of the page."""
    shown = {source_of(file) for file in files}
    text = with_site_links(markdown, source_of(page.file), shown)
    return _DIAGRAM.sub(_drawn, text)


def _drawn(found: re.Match[str]) -> str:
    """The drawing as a part of the page, so that it follows the page's theme; a div is left as it is."""
    return f"<div class='scroll'>\n{(ROOT / DOCS / found['file']).read_text()}</div>"


def source_of(file: Any) -> str:
    """The path in the repository of what the site has at ``file``."""
    outside = any(Path(file.src_uri).match(pattern) for pattern in ELSEWHERE)
    return str(file.src_uri) if outside else f"{DOCS}/{file.src_uri}"


def with_site_links(markdown: str, source: str, shown: set[str]) -> str:
    """``markdown`` of the file ``source`` with its links to files in ``shown`` rewritten for the site.

    Code blocks stay as they are. Of a link to another file of the repository its text is left: the site does
    not hold it. A link to what is not there stays, and the strict build refuses it.
    """

    def rewritten(found: re.Match[str]) -> str:
        path, mark, anchor = found["target"].partition("#")
        if not path or "://" in path:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target not in shown:
            is_source = (ROOT / target).is_file() and not target.startswith(f"{DOCS}/")
            return found["head"][1:-2] if is_source else found[0]
        relative = posixpath.relpath(_on_site(target), posixpath.dirname(_on_site(source)) or ".")
        return f"{found['head']}{relative}{mark}{anchor}{found['tail']}"

    parts = _FENCE.split(markdown)
    return "".join(part if _FENCE.match(part) else _LINK.sub(rewritten, part) for part in parts)


def _on_site(path: str) -> str:
    return path.removeprefix(f"{DOCS}/")
