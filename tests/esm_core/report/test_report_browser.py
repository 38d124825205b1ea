"""The report in a headless Chromium, opened as a file: nothing is fetched, and it shows what is known.

Screenshots in both themes and at phone width are kept in ``CI_OUTPUT_DIR`` (``.ci-output`` by default).
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from quick_demo import Prepared
from reports import analysis, manifest
from services import Command

from esm_core.artifacts import Version, open_version
from esm_core.model_card import METHOD_NAMES, normalised
from esm_core.report.analysis import read_analysis
from esm_core.report.page import render_report
from esm_core.storage import Location

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
    ),
]


class View(NamedTuple):
    """How a reader looks at the page."""

    theme: Any
    width: int


A4_WIDTH = 718
"""Pixels between margins of a centimetre."""

VIEWS = [View("light", 1280), View("dark", 1280), View("light", 390), View("dark", 390)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@contextmanager
def opened(browser: Browser, file: Path, view: View) -> Iterator[Page]:
    """The page, whose every request and word on the console is looked at when it is left."""
    size: Any = {"width": view.width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=view.theme)
    page, requests, said = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    yield page
    assert requests == [file.as_uri()]
    assert said == []
    context.close()


BOXES_OUTSIDE = """[...document.querySelectorAll(".scroll, .plot, pre, .tiles div")]
    .map(box => box.getBoundingClientRect())
    .filter(box => box.left < 0 || box.right > document.documentElement.clientWidth + 0.5)
    .map(box => [box.left, box.right])"""


def sideways(page: Page) -> int:
    """By how much the page itself could be scrolled to the side."""
    found: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


def rows(page: Page, caption: str | re.Pattern[str]) -> list[list[str]]:
    """The cells of a table, also of a closed one."""
    table = page.get_by_role("table", name=caption, include_hidden=True).first
    lines = table.locator("tr").all()
    return [[" ".join(t.split()) for t in line.locator("th, td").all_text_contents()] for line in lines]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty tasks with long names, some of them no words at all."""
    tasks = (*(f"{'x' * 30}-{number:02d}" for number in range(19)), "<b>bold</b>")
    file = tmp_path_factory.mktemp("large") / "report.html"
    file.write_bytes(
        render_report(manifest(tasks, 24), analysis(tasks, 24), manifest(tasks, 24, version=1, alpha=1.0))
    )
    return file


@pytest.mark.parametrize("view", [VIEWS[0], VIEWS[3]], ids=["light, wide", "dark, phone"])
def test_a_large_page_fits_every_reader(browser: Browser, large: Path, view: View) -> None:
    with opened(browser, large, view) as page:
        assert sideways(page) == 0
        assert page.locator("section").count() == 10
        assert page.get_by_text("<b>bold</b>").count() > 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
        assert (brightness > 200) == (view.theme == "light")
        assert page.evaluate(BOXES_OUTSIDE) == []


def test_it_prints_dark_on_white(browser: Browser, large: Path, tmp_path: Path) -> None:
    with opened(browser, large, View("dark", A4_WIDTH)) as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert sideways(page) == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.get_by_role("navigation").is_visible()
        page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").stat().st_size > 10_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, quick_demo: Prepared) -> Path:
    """The inputs of the quick demo."""
    folder = tmp_path_factory.mktemp("demo")
    quick_demo(folder)
    return folder


@pytest.fixture
def keep() -> Callable[[Page, str], None]:
    folder = Path(os.environ.get("CI_OUTPUT_DIR", ROOT / ".ci-output")) / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"report-{name}.png", full_page=True)

    return take


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("prefect_server")
def test_the_report_of_a_real_merge(
    demo: Path, esmerge: Command, browser: Browser, keep: Callable[[Page, str], None]
) -> None:
    recipe = demo / "recipe.yaml"
    first = demo / "first.yaml"
    first.write_text(recipe.read_text().replace("alpha: label_free", "alpha: 1.0"))
    assert esmerge("merge", first).code == 0
    assert esmerge("merge", recipe).code == 0
    version = open_version(Location.parse(str(demo / "store")), "demo")
    before = open_version(Location.parse(str(demo / "store")), "demo", 1)
    file = Path((version.folder / "report.html").path)
    for view in VIEWS:
        with opened(browser, file, view) as page:
            assert sideways(page) == 0
            keep(page, f"{view.theme}-{view.width}")
    with opened(browser, file, View("light", 1280)) as page:
        check_summary(page, version, before)
        check_accuracy(page, version)
        check_alpha(page, version)
        check_layers(page, version)
        check_routing(page, version)
        check_origins(page, version)
    out = demo / "again.html"
    assert esmerge("report", demo / "store", "demo", "-o", out).code == 0
    assert out.read_bytes() == file.read_bytes()
    found = json.loads(esmerge("compare", "demo", "1", "2", "--store", demo / "store", "--json").out)
    assert found["accuracy"]["base"]["verdict"] == "same"
    assert {"area": "settings", "what": "alpha", "before": "1.0", "after": "label_free"} in found["changes"]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def check_summary(page: Page, version: Version, before: Version) -> None:
    new, old = (v.manifest["metrics"]["accuracy"]["esm"] for v in (version, before))
    shown = {row[0]: row[1:4] for row in rows(page, re.compile(r"^ESM per task"))}
    for task in new:
        assert shown[task][:2] == [percent(old[task]), percent(new[task])]
    text = page.locator("#summary").inner_text()
    assert re.search(r"ESM: (better|worse|mixed|same)", text)
    assert f"{version.manifest['alpha']:.3g}" in text


def check_accuracy(page: Page, version: Version) -> None:
    accuracy = version.manifest["metrics"]["accuracy"]
    header, *shown = rows(page, "Accuracy, %")
    methods = {METHOD_NAMES[method]: method for method in accuracy}
    for task, *values in shown[:-2]:
        for name, value in zip(header[1:], values, strict=True):
            assert value == percent(accuracy[methods[name]][task])
    assert shown[-1][1:] == [
        percent(value) for value in normalised(accuracy, [methods[name] for name in header[1:]])
    ]
    for number, task in enumerate(sorted(accuracy["esm"])):
        chart = page.locator(f'svg[aria-labelledby="accuracy-{number}-title"]')
        assert chart.locator("text.vl").all_text_contents() == [
            percent(accuracy[methods[name]][task]) for name in header[1:]
        ]


def check_alpha(page: Page, version: Version) -> None:
    curve = sorted(version.manifest["alpha_search"]["curve"])
    _, *shown = rows(page, "score without labels per α")
    assert shown == [[f"{alpha:.4g}", f"{score:.4f}"] for alpha, score in curve]
    chart = page.locator('svg[aria-labelledby="alpha-curve-title"]')
    assert chart.locator("circle").count() == len(curve)
    assert chart.locator(".mt").text_content() == f"chosen: {version.manifest['alpha']:.4g}"


def check_layers(page: Page, version: Version) -> None:
    found = read_analysis(version)
    assert found is not None
    names = found.tasks
    for kind in ("attn.in_proj", "mlp.c_fc", "mlp.c_proj"):
        layers = [layer for layer in found.layers.values() if layer.kind == kind]
        header, *shown = rows(page, f"Mean overlap in {kind}")
        assert header[1:] == names
        for i, row in enumerate(shown):
            own = [fmean((layer.overlaps or [])[i][j] for layer in layers) for j in range(len(names))]
            assert row[1:] == [f"{value:.3f}" for value in own]
        header, *shown = rows(page, f"Energy in {kind}, %")
        assert header == ["directions", "ESD %", "SVD %"]
        assert [int(row[0]) for row in shown] == layers[0].curve_ranks
        means = [curve[0] for layer in layers for curve in layer.essential or [] if curve]
        assert float(shown[0][1]) == pytest.approx(100 * sum(means) / len(means), abs=0.06)
        assert float(shown[-1][1]) == 100.0
    _, *shown = rows(page, "β, inter-layer scaling per layer")
    scales = version.manifest["layer_scales"]
    assert shown[0][1] == f"{scales['visual.transformer.resblocks.0.attn.in_proj_weight']:.4g}"
    _, *norms = rows(page, "Norm of the merged update per layer")
    assert norms[0][1] == f"{found.layers['visual.transformer.resblocks.0.attn.in_proj_weight'].norm:.4g}"


def check_routing(page: Page, version: Version) -> None:
    counts = version.manifest["metrics"]["routing"]["image"]
    header, *shown = rows(page, "Test images: share sent to each expert, %")
    for task, *values in shown:
        total = sum(counts[task].values())
        assert values == [percent(counts[task][expert] / total) for expert in header[1:]]
    chart = page.locator('svg[aria-labelledby="routing-test-title"]')
    assert chart.locator("rect").count() == len(counts) ** 2
    facts = version.manifest["experts"]
    held_out = facts["held_out"][facts["router"]]["accuracy"]
    assert f"{percent(held_out)} % found their own" in page.locator("#routing").inner_text()


def check_origins(page: Page, version: Version) -> None:
    inputs = version.manifest["inputs"]
    shown = {row[0]: row for row in rows(page, "Base and fine-tunes")}
    for name, facts in {"base": inputs["base"], **inputs["tasks"]}.items():
        checkpoint = facts["checkpoint"]
        assert shown[name][1:4] == [checkpoint["url"], checkpoint["sha256"], checkpoint["tensors_sha256"]]
    _, *stages = rows(page, "Stages")
    assert [row[0] for row in stages] == [s["name"] for s in version.manifest["run"]["stages"]]
    assert "measuring updates" in [row[0] for row in stages]
    files = {row[0]: row[2] for row in rows(page, "Files")}
    expected = {path: facts["sha256"] for path, facts in version.manifest["files"].items()}
    assert {path: digest for path, digest in files.items() if path != "file"} == {
        path: digest for path, digest in expected.items() if path != "report.html"
    }
    assert "esm_core.load(" in page.locator("#load").inner_text()
