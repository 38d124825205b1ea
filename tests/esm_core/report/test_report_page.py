"""The page as text: every section is there, says what it has or why not, and trusts no name."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from reports import analysis, manifest

from esm_core.artifacts import Manifest
from esm_core.report.analysis import Analysis
from esm_core.report.page import render_report

SECTIONS = ["summary", "accuracy", "alpha", "energy", "interference", "routing", "norms"]
SECTIONS += ["lineage", "cost", "load"]
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Text of every section, all tags and all attributes; fails where tags do not nest."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self.feed(content.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


def page(content: Manifest, found: Analysis | None = None, previous: Manifest | None = None) -> Page:
    return Page(render_report(content, found, previous))


def test_every_section_is_there_in_order_with_its_own_ids() -> None:
    found = page(manifest(), analysis(), manifest(version=1, parent=None))
    assert list(found.sections) == SECTIONS
    assert len(found.ids) == len(set(found.ids))
    links = [value for name, value in found.attributes if name == "href"]
    assert [link for link in links if link.startswith("#")] == [f"#{name}" for name in SECTIONS]


def test_nothing_is_fetched_and_nothing_runs() -> None:
    content = render_report(manifest(), analysis(), None)
    found = Page(content)
    assert not found.tags & {"script", "img", "iframe", "object", "embed", "form"}
    assert not [value for name, value in found.attributes if name == "src" or name.startswith("on")]
    assert {v for n, v in found.attributes if n == "href" and not v.startswith("#")} == {"data:,"}
    assert b"url(" not in content
    assert b"@import" not in content


def test_the_same_content_is_the_same_page() -> None:
    first = render_report(manifest(), analysis(), manifest(version=1))
    assert render_report(manifest(), analysis(), manifest(version=1)) == first
    listed = manifest()
    listed["files"]["report.html"] = {"bytes": len(first), "sha256": "0" * 64}
    assert render_report(listed, analysis(), manifest(version=1)) == first


HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }}"


def test_names_and_urls_are_never_markup() -> None:
    odd = manifest((HOSTILE, "dogs"))
    odd["name"] = HOSTILE
    odd["recipe"] |= {"store": HOSTILE, "note": HOSTILE}
    odd["inputs"]["base"]["checkpoint"]["url"] = f"javascript:{HOSTILE}"
    odd["run"]["stages"][0]["name"] = HOSTILE
    odd["libraries"][HOSTILE] = HOSTILE
    odd["files"][HOSTILE] = {"bytes": 1, "sha256": HOSTILE}
    odd["alpha_search"]["method"] = HOSTILE
    odd["metrics"]["accuracy"][HOSTILE] = {HOSTILE: 0.5, "dogs": 0.5}
    odd["experts"]["router"] = HOSTILE
    odd["architecture"]["name"] = HOSTILE
    found = page(odd, analysis((HOSTILE, "dogs")), manifest(("dogs",), version=1))
    assert not found.tags & {"script", "img"}
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "src"]
    assert all(v.startswith("#") or v == "data:," for n, v in found.attributes if n == "href")
    assert HOSTILE in found.sections["accuracy"], "shown as it is written"
    assert "49" not in found.sections["summary"]


def test_the_summary_says_whether_it_is_better_than_the_version_before() -> None:
    before = manifest(version=1, parent=None)
    before["metrics"]["accuracy"]["esm"] = {"cats": 0.5, "dogs": 0.625, "maps": 0.7}
    text = page(manifest(), analysis(), before).sections["summary"]
    assert "ESM: mixed" in text
    assert "1 better, 1 worse, 1 same of 3 tasks; on average +1.7 points" in text
    assert "ESM++ (routed): same" in text
    assert "+12.5" in text
    assert "−7.5" in text


ABSENT = [
    ("summary", {"parent": None}, "This is the first version of this artifact"),
    ("summary", {"parent": 1}, "The version before, v000001, could not be read"),
    ("accuracy", {"metrics": {"accuracy": {}}}, "No accuracy was measured"),
    ("alpha", {"alpha_search": {"method": "fixed", "curve": []}}, "α is 1.5: fixed by the recipe"),
    ("energy", {}, "no analysis.json"),
    ("interference", {}, "no analysis.json"),
    ("routing", {"experts": None}, "This version has no experts"),
    ("norms", {}, "only β is known"),
    ("norms", {"layer_scales": {}}, "The manifest holds no layer scales"),
    ("lineage", {"inputs": {}}, "The manifest names no inputs"),
    ("cost", {"run": {"stages": []}}, "does not say what the stages"),
]


@pytest.mark.parametrize(("section", "changed", "said"), ABSENT)
def test_a_section_without_data_says_so(section: str, changed: dict[str, Any], said: str) -> None:
    assert said in page(manifest(**changed)).sections[section]


def test_a_manifest_that_says_nothing_has_a_page_too() -> None:
    found = page({"name": "pets", "version": 1, "files": {}})
    assert list(found.sections) == SECTIONS
    assert all(found.sections.values())


def test_figures_are_those_of_the_manifest_and_the_analysis() -> None:
    content, measured = manifest(), analysis()
    found = page(content, measured).sections
    assert "62.5" in found["accuracy"]
    assert "α = 1.5 has the best score without labels, 0.7000" in found["alpha"]
    assert "chosen: 1.5" in found["alpha"]
    assert "block" in found["energy"]
    worst = measured.layers["visual.transformer.resblocks.1.mlp.c_proj.weight"].overlaps
    assert worst is not None
    rows = re.sub(r"\s+", " ", found["interference"])
    assert f"dogs maps {worst[1][2] - 0.0005:.3f}" in rows or "dogsmaps" in rows.replace(" ", "")
    assert "95.0 % found their own" in found["routing"]
    assert "1.75" in found["norms"]
    assert "c" * 64 in found["lineage"]
    assert "12.5" in found["cost"]
    assert "esm_core.load('s3://models/store', 'pets', 'v000002', experts=True)" in found["load"]


def test_a_router_that_decides_in_every_layer_has_a_curve() -> None:
    content = manifest()
    counts = content["metrics"]["routing"].pop("image")
    names = list(analysis().layers)
    content["metrics"]["routing"] = dict.fromkeys(names, counts)
    content["experts"] |= {"scope": "layer", "router": "cosine", "held_out": {}}
    text = page(content, analysis()).sections["routing"]
    assert "Routing accuracy per layer" in text
    assert "Test images, all 8 layers" in text
    assert "held out" not in text


def test_twenty_tasks_on_a_large_model_stay_below_a_megabyte() -> None:
    tasks = tuple(f"task-{number:02d}-with-a-long-name" for number in range(20))
    measured = analysis(tasks, blocks=24)
    content = manifest(tasks, blocks=24)
    content["metrics"]["routing"] = dict.fromkeys(measured.layers, content["metrics"]["routing"]["image"])
    content["experts"]["scope"] = "layer"
    assert len(render_report(content, measured, manifest(tasks, 24, version=1))) < 10**6
    assert len(measured.content()) < 10**6
