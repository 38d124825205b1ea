"""The site in headless Chromium: no message, nothing from elsewhere, no page wider than the screen."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Request, sync_playwright
from test_site import built_site

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
    ),
]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_pages_are_quiet_and_fit(theme: str, width: int, tmp_path: Path) -> None:
    site = built_site(tmp_path)
    found: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("file://", "data:", "blob:")):
            found.append(f"asked for {request.url}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 900})  # type: ignore[arg-type]
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("request", note)
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            widest = page.evaluate("document.documentElement.scrollWidth")
            if widest > width:
                found.append(f"{path.name} is {widest} wide")
        scheme = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
        browser.close()
    assert scheme == {"light": "default", "dark": "slate"}[theme]
    assert not found
