"""A researcher in the Prefect UI: the deployment, Run, Custom run, the form, the finished run, its artifacts.

Screenshots of every step are kept in ``CI_OUTPUT_DIR`` (``.ci-output`` by default).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from stacks import PATIENCE, ROOT, Stack
from world import World

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = browser.new_page(viewport={"width": 1400, "height": 1000})
        found.set_default_timeout(30_000)
        yield found
        browser.close()


@pytest.fixture
def shot(page: Page) -> Callable[[str], None]:
    folder = Path(os.environ.get("CI_OUTPUT_DIR", ROOT / ".ci-output")) / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def take(name: str) -> None:
        page.screenshot(path=folder / f"prefect-{name}.png")

    return take


@pytest.mark.timeout(2 * PATIENCE)
def test_a_merge_is_run_from_the_form(
    stack: Stack, world: World, page: Page, shot: Callable[[str], None]
) -> None:
    recipe = stack.upload(world, "ui")
    page.goto(f"{stack.layout.url('prefect')}/v2/deployments")
    page.get_by_role("link", name="merge", exact=True).first.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()
    shot("1-deployment")

    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_label("recipe", exact=True).fill(recipe)
    page.get_by_label("alpha (Optional)").fill("1.5")
    page.get_by_label("rank (Optional)").fill("2")
    page.get_by_label("Select experts").click()
    page.get_by_role("option", name="on", exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)
    dry_run = page.get_by_label("dry_run (Optional)")
    dry_run.click()
    expect(dry_run).to_be_checked()
    dry_run.click()
    expect(dry_run).not_to_be_checked()
    shot("2-form")

    with page.expect_response(re.compile(r"/create_flow_run$"), timeout=60_000) as answered:
        page.get_by_role("button", name="Submit").click()
    run = answered.value.json()["id"]
    # The link to it that appears is gone after seconds: on a busy machine before it can be clicked.
    page.goto(f"{stack.layout.url('prefect')}/v2/runs/flow-run/{run}")
    shot("3-started")
    stack.completes(run)
    page.reload()
    expect(page.get_by_role("main").get_by_text("Completed", exact=True).first).to_be_visible()
    expect(page.get_by_role("main").get_by_text("Running", exact=True)).to_have_count(0)
    expect(page.get_by_text(re.compile(r"\d+ Task runs"))).to_be_visible()
    shot("4-completed")

    page.get_by_role("tab", name="Artifacts").click()
    for artifact in ("pets-plan", "pets-accuracy", "pets-version"):
        expect(page.get_by_text(artifact, exact=True)).to_be_visible()
    shot("5-artifacts")
    page.get_by_text("pets-accuracy", exact=True).click()
    page.wait_for_url(re.compile(r"/artifacts/key/pets-accuracy"))
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.get_by_text("normalised", exact=True).first).to_be_visible()
    shot("6-accuracy")

    manifest = stack.manifest("ui")
    assert manifest["alpha"] == 1.5
    assert manifest["recipe"]["experts"]["rank"] == 2
    assert stack.run(run)["parameters"] == {
        "recipe": recipe,
        "alpha": "1.5",
        "rank": 2,
        "experts": "on",
        "dry_run": False,
    }
