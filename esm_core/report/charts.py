"""Vector plots as inline SVG: bars, lines, heatmaps. Colours are the page's, so both themes have theirs.

Every text that comes from outside goes through :class:`markupsafe.Markup`, which escapes it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

_CHAR = 6.3
"""Width of a character at the size of the labels, about."""


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to ``value``; ``tone`` is one of the page's colours, ``text`` is written at its end."""

    label: str
    value: float
    text: str
    tone: str


@dataclass(frozen=True)
class Series:
    """A line; ``band`` is the area between two lines at the same x, drawn behind it."""

    name: str
    points: Sequence[Point]
    tone: str
    dash: str = ""
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes of a line plot say.

    Attributes
    ----------
    mark : (float, str), optional
        A vertical line at this x, and what it stands for.
    """

    x: str
    y: str
    log_x: bool = False
    from_zero: bool = True
    mark: tuple[float, str] | None = None
    top: float | None = None
    whole_x: bool = False


def bars(key: str, title: str, rows: Sequence[Bar], limit: float = 1.0) -> Markup:
    """Horizontal bars with their names and numbers written beside them; ``limit`` is the full width."""
    label_width = min(max((len(row.label) for row in rows), default=0), 18) * _CHAR + 10
    width, step, room = 340.0, 21, 46
    full = width - label_width - room
    parts = []
    for number, row in enumerate(rows):
        y = number * step
        length = max(full * min(max(row.value / limit, 0.0), 1.0), 0.0) if limit > 0 else 0.0
        parts.append(
            Markup(
                '<g><title>{}: {}</title><text class="lb" x="{}" y="{}">{}</text>'
                '<rect class="track" x="{}" y="{}" width="{}" height="13" rx="2"/>'
                '<rect class="{}" x="{}" y="{}" width="{}" height="13" rx="2"/>'
                '<text class="vl" x="{}" y="{}">{}</text></g>'
            ).format(
                *(row.label, row.text, _n(label_width - 7), y + 14, _short(row.label, 18)),
                *(_n(label_width), y + 4, _n(full)),
                *(row.tone, _n(label_width), y + 4, _n(length)),
                *(_n(label_width + length + 5), y + 14, row.text),
            )
        )
    described = "; ".join(f"{row.label} {row.text}" for row in rows)
    return _svg(key, title, described, width, len(rows) * step + 4, parts)


def lines(key: str, title: str, series: Sequence[Series], axes: Axes) -> Markup:
    """Lines over one axis, with a legend above. No figure is written that a reader has to guess: the data
    table beside the plot holds them.
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [v for one in series for b in one.band for v in b[1:]]
    low = min([0.0, *ys]) if axes.from_zero else min(ys)
    ticks = _ticks(low, axes.top if axes.top is not None else max(ys))
    low, high = min(low, ticks[0]), ticks[-1]
    legend = series if len(series) > 1 else ()
    width, right, bottom = 360.0, 14.0, 40.0
    left, top = 25 + _CHAR * max(len(_g(tick)) for tick in ticks), 14.0 + 17 * len(legend)
    height = top + bottom + 160
    at_x = _scale(xs, left, width - right, axes.log_x)
    at_y = _scale([low, high], height - bottom, top, False)
    parts = [_y_tick(tick, left, width - right, at_y(tick)) for tick in ticks]
    parts += [_x_tick(tick, at_x(tick), height - bottom) for tick in _x_ticks(xs, axes)]
    parts.append(
        Markup(
            '<text class="ax" text-anchor="middle" x="{}" y="{}">{}</text>'
            '<text class="ax" text-anchor="middle" transform="translate(11 {}) rotate(-90)">{}</text>'
        ).format(
            _n((left + width - right) / 2), _n(height - 6), axes.x, _n((top + height - bottom) / 2), axes.y
        )
    )
    if axes.mark is not None:
        parts.append(_mark(*axes.mark, at_x(axes.mark[0]), top, height - bottom, width))
    parts += [_line(one, at_x, at_y) for one in series]
    for number, one in enumerate(legend):
        parts.append(
            Markup(
                '<line class="ln {}" stroke-dasharray="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="lg" x="{}" y="{}">{}</text>'
            ).format(
                *(one.tone, one.dash, left, left + 24, 9 + 17 * number, 9 + 17 * number),
                *(left + 31, 13 + 17 * number, one.name),
            )
        )
    described = (
        f"{axes.y} over {axes.x}; " + "; ".join(_described(one) for one in series) + ". Data table follows."
    )
    return _svg(key, title, described, width, height, parts)


def heatmap(
    key: str,
    title: str,
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    text: Callable[[float], str],
    scale: tuple[float, float],
    between: str = "{} and {}: {}",
) -> Markup:
    """A square of cells in eleven steps over ``scale``; a cell without a value is empty.

    Parameters
    ----------
    text : callable
        A value as it is written in its cell, where the cells are large enough, and in its tool tip.
    between : str
        What a tool tip says of a row, a column and a value.
    """
    count = len(names)
    longest = min(max((len(name) for name in names), default=1), 14)
    left, top = longest * _CHAR + 10, longest * _CHAR * 0.75 + 16
    cell = max(17.0, min(44.0, (356.0 - left) / max(count, 1)))
    parts = []
    for index, name in enumerate(names):
        middle = index * cell + cell / 2
        parts.append(
            Markup(
                '<g><title>{}</title><text class="lb" x="{}" y="{}">{}</text></g>'
                '<text class="cl" transform="translate({} {}) rotate(-45)">{}</text>'
            ).format(
                *(name, _n(left - 6), _n(top + middle + 4), _short(name, 14)),
                *(_n(left + middle + 3), _n(top - 6), _short(name, 14)),
            )
        )
    for row, own in enumerate(values):
        for column, value in enumerate(own):
            shown = "no value" if value is None else text(value)
            step = "none" if value is None else str(heat_step(value, scale))
            where = (_n(left + column * cell), _n(top + row * cell))
            parts.append(
                Markup(
                    '<rect class="h{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                ).format(
                    step, *where, _n(cell - 1), _n(cell - 1), between.format(names[row], names[column], shown)
                )
            )
            if value is not None and cell >= 24:
                parts.append(
                    Markup('<text class="hv t{}" x="{}" y="{}">{}</text>').format(
                        step,
                        _n(left + column * cell + cell / 2 - 0.5),
                        _n(top + row * cell + cell / 2 + 3.5),
                        shown,
                    )
                )
    described = (
        f"{count} by {count} cells, from {text(scale[0])} (faint) to {text(scale[1])}. Data table follows."
    )
    return _svg(
        key, title, described, left + count * cell + longest * _CHAR * 0.4 + 6, top + count * cell + 2, parts
    )


def heat_step(value: float, scale: tuple[float, float]) -> int:
    """Which of the eleven colours a value has, 0 for the lower end of the scale."""
    low, high = scale
    return round(10 * min(max((value - low) / (high - low), 0.0), 1.0)) if high > low else 0


def _svg(
    key: str, title: str, described: str, width: float, height: float, parts: Sequence[Markup]
) -> Markup:
    # On a phone a plot shrinks a little; a larger one scrolls in its box, so that its text can be read.
    least = 300.0 if width <= 400 else 0.85 * width
    return Markup(
        '<svg viewBox="0 0 {0} {1}" role="img" aria-labelledby="{2}-title" aria-describedby="{2}-desc" '
        'style="max-width:{3}px;min-width:{4}px"><title id="{2}-title">{5}</title>'
        '<desc id="{2}-desc">{6}</desc>{7}</svg>'
    ).format(
        *(_n(width), _n(height), key, _n(width * 1.25), _n(least)),
        *(title, described, Markup("").join(parts)),
    )


def _line(one: Series, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> Markup:
    parts = Markup("")
    if one.band:
        upper = [f"{_n(at_x(x))},{_n(at_y(high))}" for x, _, high in one.band]
        lower = [f"{_n(at_x(x))},{_n(at_y(low))}" for x, low, _ in reversed(one.band)]
        parts += Markup('<polygon class="bd {}" points="{}"/>').format(one.tone, " ".join(upper + lower))
    path = " ".join(f"{_n(at_x(x))},{_n(at_y(y))}" for x, y in one.points)
    parts += Markup('<polyline class="ln {}" stroke-dasharray="{}" points="{}"/>').format(
        one.tone, one.dash, path
    )
    for x, y in one.points if one.dots else ():
        parts += Markup('<circle class="dt {}" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>').format(
            one.tone, _n(at_x(x)), _n(at_y(y)), _g(x), _g(y)
        )
    return parts


def _mark(x: float, text: str, at: float, top: float, bottom: float, width: float) -> Markup:
    left = at > width * 0.6
    return Markup(
        '<g><title>{}</title><line class="mk" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="mt" text-anchor="{}" x="{}" y="{}">{}</text></g>'
    ).format(
        *(text, _n(at), _n(at), _n(top), _n(bottom)),
        *("end" if left else "start", _n(at - 5 if left else at + 5), _n(bottom - 8), text),
    )


def _y_tick(tick: float, left: float, right: float, y: float) -> Markup:
    return Markup(
        '<line class="gr" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="tk" text-anchor="end" x="{}" y="{}">{}</text>'
    ).format(_n(left), _n(right), _n(y), _n(y), _n(left - 5), _n(y + 3.5), _g(tick))


def _x_tick(tick: float, x: float, y: float) -> Markup:
    return Markup(
        '<line class="gr" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="tk" text-anchor="middle" x="{}" y="{}">{}</text>'
    ).format(_n(x), _n(x), _n(y), _n(y + 4), _n(x), _n(y + 15), _g(tick))


def _scale(values: Sequence[float], first: float, last: float, log: bool) -> Callable[[float], float]:
    low, high = (math.log(v) if log else v for v in (min(values), max(values)))
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return first + (last - first) * ((math.log(value) if log else value) - low) / span

    return at


def _ticks(low: float, high: float) -> list[float]:
    """Four to six round numbers that hold both."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _x_ticks(xs: Sequence[float], axes: Axes) -> list[float]:
    low, high = min(xs), max(xs)
    if axes.log_x:
        found = [float(2**p) for p in range(0, 16, 2) if low <= 2**p <= high]
        return found if found and high / found[-1] < 1.5 else [*found, high]
    found = [tick for tick in _ticks(low, high) if low - 1e-9 <= tick <= high + 1e-9]
    return [tick for tick in found if tick == int(tick)] if axes.whole_x else found


def _described(one: Series) -> str:
    first, last = one.points[0], one.points[-1]
    return f"{one.name} from {_g(first[1])} at {_g(first[0])} to {_g(last[1])} at {_g(last[0])}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _n(value: float) -> str:
    """A coordinate: as short as it can be, the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")


def _g(value: float) -> str:
    return f"{value:.4g}"
