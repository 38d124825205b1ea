"""The documentation builds as a site with nothing to complain about, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs_tools.site import with_site_links

ROOT = Path(__file__).parents[2]


def built_site(folder: Path) -> Path:
    """The site, built strictly below ``folder``."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory.mktemp("site"))


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
