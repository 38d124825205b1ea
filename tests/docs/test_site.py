"""The documentation builds as a site with nothing to complain about, and asks nobody else for anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs_tools.site import with_site_links

ROOT = Path(__file__).parents[2]


def build(folder: Path, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Build the site of ``root`` strictly below ``folder``, as ``make docs`` does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


def built_site(folder: Path) -> Path:
    """The site below ``folder``, built without a warning."""
    built = build(folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory.mktemp("site"))


def test_make_docs_builds_it_the_same_way() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "-m mkdocs build --strict --clean" in makefile
    assert "mkdocs build --quiet" not in makefile  # it would keep warnings from being counted


def test_broken_links_and_anchors_stop_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for folder in ("docs", "docs_tools", "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for file in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, copy / file)
    with (copy / "docs" / "faq.md").open("a") as page:
        page.write("\n[a](nowhere.md) [b](method.md#nowhere) [c](../benchmarks/RESULTS.md#nowhere)\n")
    built = build(tmp_path / "site", copy)
    assert built.returncode != 0
    for wrong in ("nowhere.md", "method.md#nowhere", "RESULTS.md#nowhere"):
        assert wrong in built.stderr


def test_every_document_is_a_page(site: Path) -> None:
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    for page in [*documents, "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md"]:
        assert (site / page).with_suffix(".html").is_file(), page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?(https?:)?//[^>]*>")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_diagram_is_a_part_of_its_page(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert (ROOT / "docs" / "architecture.svg").read_text() in page


def test_links_to_files_of_the_repository_become_links_on_the_site() -> None:
    shown = {"docs/method.md", "docs/howto/s3.md", "benchmarks/RESULTS.md", "CHANGELOG.md"}
    from_page = with_site_links("[r](../benchmarks/RESULTS.md#speed) [m](method.md)", "docs/a.md", shown)
    assert from_page == "[r](benchmarks/RESULTS.md#speed) [m](method.md)"
    below = with_site_links("[r](../../benchmarks/RESULTS.md) ![x](../none.svg)", "docs/howto/s3.md", shown)
    assert below == "[r](../benchmarks/RESULTS.md) ![x](../none.svg)"
    outside = with_site_links("[s](docs/howto/s3.md) [c](https://x.org/docs/a.md)", "CHANGELOG.md", shown)
    assert outside == "[s](howto/s3.md) [c](https://x.org/docs/a.md)"


def test_of_links_to_source_files_the_text_is_left() -> None:
    text = with_site_links("[`Tower`](../esm_core/esd.py) [x](../esm_core/none.py)", "docs/a.md", set())
    assert text == "`Tower` [x](../esm_core/none.py)"


def test_code_is_left_alone() -> None:
    text = "```\n[r](../benchmarks/RESULTS.md)\n```\n"
    assert with_site_links(text, "docs/a.md", {"benchmarks/RESULTS.md"}) == text
