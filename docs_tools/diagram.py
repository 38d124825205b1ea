"""The architecture's diagram: ``python -m docs_tools.diagram`` writes ``docs/architecture.svg``.

A test compares what is drawn with what the packages import.
"""

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "architecture.svg"


@dataclass(frozen=True)
class Package:
    """A box: a package, what it is for, and the libraries it is built on."""

    name: str
    purpose: str
    libraries: tuple[str, ...]


PACKAGES = (
    Package("esmerge", "the command", ("typer", "rich")),
    Package("deployments", "schedules, stack", ("prefect", "dask")),
    Package("flows", "the graph", ("prefect", "dask")),
    Package("tasks", "one call each", ("prefect",)),
)
"""From left to right: each imports the next one, if it imports any of them, and all import the library."""

LIBRARY = Package(
    "esm_core", "the library", ("torch", "open_clip", "zarr", "fsspec", "pydantic", "safetensors", "scipy")
)

PARTS = {
    "registry": "fine-tunes that land",
    "checkpoints": "reading weights",
    "images": "reading images",
    "methods": "ESM and baselines",
    "linalg": "polar, eigen, rank",
    "alpha": "search for alpha",
    "experts": "ESM++ experts",
    "routing": "routers, routed tower",
    "gc": "garbage collection",
    "report": "the report's page",
    "draft": "a recipe for a folder",
    "doctor": "is all in place",
    "testing": "suites for extensions",
}
"""The library's packages."""

ARROWS = (
    ("esmerge", "deployments"),
    ("deployments", "flows"),
    ("flows", "tasks"),
    ("esmerge", "esm_core"),
    ("deployments", "esm_core"),
    ("flows", "esm_core"),
    ("tasks", "esm_core"),
)
"""Who imports whom."""

_WIDTH, _HEIGHT = 760, 532
_BOX, _STEP, _TOP = 150, 200, 20
_LIBRARY_TOP, _LIBRARY_HEIGHT = 150, 282
_STYLE = """
svg.diagram { color: #1f2328; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { svg.diagram { color: #e6edf3; } }
svg.diagram text { font: 13px system-ui, sans-serif; fill: currentColor; text-anchor: middle; }
svg.diagram .name { font-weight: 600; font-family: ui-monospace, monospace; }
svg.diagram .less { font-size: 11px; opacity: .75; }
svg.diagram rect { fill: currentColor; fill-opacity: .05; stroke: currentColor; stroke-opacity: .55; }
svg.diagram path { stroke: currentColor; fill: none; stroke-width: 1.4; }
svg.diagram marker path { fill: currentColor; stroke: none; }
"""


def draw() -> str:
    """The diagram as SVG. Its colours follow the text around it."""
    left = {package.name: 5 + number * _STEP for number, package in enumerate(PACKAGES)}
    body: list[str] = []
    for package in PACKAGES:
        body += _box(left[package.name], _TOP, _BOX, 70, package)
    body += _box(5, _LIBRARY_TOP, _WIDTH - 10, _LIBRARY_HEIGHT, LIBRARY)
    for number, (name, purpose) in enumerate(PARTS.items()):
        row, column = divmod(number, 5)
        body += _box(20 + column * 146, _LIBRARY_TOP + 85 + row * 62, 136, 50, Package(name, purpose, ()))
    store = Package("store", "a folder or an S3 prefix: stages, versions, channels, leases", ())
    body += _box(140, 482, 480, 46, store)
    for source, target in ARROWS:
        middle = left[source] + _BOX / 2
        if target == LIBRARY.name:
            body.append(_arrow(middle, _TOP + 70, middle, _LIBRARY_TOP))
        else:
            body.append(_arrow(left[source] + _BOX, _TOP + 35, left[target], _TOP + 35))
    bottom = _LIBRARY_TOP + _LIBRARY_HEIGHT
    body.append(_arrow(380, bottom, 380, 482, dashed=True))
    body.append(_text(450, bottom + 30, "reads, writes", "less"))
    title = "esmerge imports deployments, which imports flows, which imports tasks; all import esm_core"
    lines = "\n".join(body)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" class="diagram" {size} role="img">
<title>{title}</title>
<style>{_STYLE}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z"/></marker></defs>
{lines}
</svg>
"""


def _box(x: float, y: float, width: float, height: float, package: Package) -> list[str]:
    middle = x + width / 2
    lines = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>',
        _text(middle, y + 20, package.name, "name"),
        _text(middle, y + 38, package.purpose, "less"),
    ]
    if package.libraries:
        lines.append(_text(middle, y + 58, ", ".join(package.libraries), "less"))
    return lines


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{text}</text>'


def _arrow(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x1:g} {y1:g} {x2:g} {y2:g}" marker-end="url(#tip)"{dash}/>'


def main() -> None:
    """Write the file."""
    FILE.write_text(draw())


if __name__ == "__main__":
    main()
