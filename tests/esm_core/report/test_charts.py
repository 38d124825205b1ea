"""Plots are well-formed SVG, whatever is written on them, and their colours can be told apart."""

import re
from importlib.resources import files
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from esm_core.report.charts import Axes, Bar, Series, _ticks, bars, heat_step, heatmap, lines

HOSTILE = "</text><script>alert(1)</script>&\"'{}"
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314


def every_chart(name: str) -> list[str]:
    line = Series(name, [(1.0, 0.1), (2.0, 0.4)], "c1", dots=True, band=[(1.0, 0.0, 0.2), (2.0, 0.3, 0.5)])
    axes = Axes(name, name, mark=(1.5, name))
    values = [[None, 0.2], [0.4, None]]
    return [
        bars("a", name, [Bar(name, 0.5, name, "c1")]),
        lines("b", name, [line, line], axes),
        heatmap("c", name, [name, name], values, str, (0.0, 1.0)),
    ]


@pytest.mark.parametrize("name", ["cats", HOSTILE, "", "x" * 300])
def test_charts_are_well_formed_and_name_themselves(name: str) -> None:
    for svg in every_chart(name):
        root = parsed(svg)
        assert root.get("role") == "img"
        title, description = root[0], root[1]
        assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
        assert root.get("aria-labelledby") == title.get("id")
        assert root.get("aria-describedby") == description.get("id")
        assert title.text == (name or None)
        assert not list(root.iter(f"{SVG}script"))


def test_a_bar_is_as_long_as_its_value() -> None:
    root = parsed(bars("a", "t", [Bar("half", 0.5, "50", "c1"), Bar("full", 1.0, "100", "c1")]))
    half, full = (float(r.get("width", 0)) for r in root.iter(f"{SVG}rect") if r.get("class") == "c1")
    assert half == pytest.approx(full / 2, abs=0.1)
    assert [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "vl"] == ["50", "100"]


def test_a_heatmap_has_a_cell_for_every_pair_and_writes_its_values() -> None:
    values = [[None, 0.25, 0.5], [0.25, None, 0.75], [0.5, 0.75, None]]
    svg = heatmap("a", "t", ["x", "y", "z"], values, lambda v: f"{v:.2f}", (0.25, 0.75))
    assert svg.count('class="hnone"') == 3
    assert (svg.count('class="h0"'), svg.count('class="h5"'), svg.count('class="h10"')) == (2, 2, 2)
    assert "y and z: 0.75" in svg
    assert svg.count(">0.25</text>") == 2


def test_steps_of_a_scale_end_at_its_ends() -> None:
    assert [heat_step(v, (0.0, 2.0)) for v in (-1, 0, 1, 2, 9)] == [0, 0, 5, 10, 10]
    assert heat_step(1.0, (1.0, 1.0)) == 0


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.5529, 0.5622), (0, 0), (-3, 1e-3), (0, 12345.0)])
def test_ticks_are_few_even_and_hold_the_values(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 1 <= len(ticks) <= 7
    assert len({round(b - a, 9) for a, b in pairwise(ticks)}) <= 1


def themes() -> list[dict[str, str]]:
    css = files("esm_core.report").joinpath("templates/report.css").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", css)
    assert len(blocks) == 3, "light, dark and print"
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark", "print"])
def test_text_and_marks_can_be_read_in_every_theme(theme: dict[str, str]) -> None:
    for ground in ("card", "bg"):
        for text in ("ink", "soft", "link", "good", "bad"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for word in ("good", "bad", "mixed"):
        assert contrast(theme[word], theme[f"{word}-bg"]) >= 4.5, word
    for mark in ("c0", "c1", "c2", "c3", "c4", "c5", "c6"):
        assert contrast(theme[mark], theme["card"]) >= 3, mark
    for step in range(11):
        text = "t-low" if step < 6 else "t-mid" if step == 6 else "t-high"
        assert contrast(theme[text], theme[f"h{step}"]) >= 4.5, step
