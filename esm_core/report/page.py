"""The page: ``report.html`` of a version, from its manifest, its analysis and the version before.

One file that needs nothing else: no script, no font, no picture from elsewhere. Equal inputs give equal
bytes.
"""

from jinja2 import Environment, PackageLoader, StrictUndefined

from esm_core.artifacts import Manifest, Version, open_version, read_verified
from esm_core.claims import version_label
from esm_core.errors import InputError
from esm_core.report import REPORT_NAME
from esm_core.report.accuracy import accuracy, alpha, summary
from esm_core.report.analysis import Analysis, read_analysis
from esm_core.report.interference import interference
from esm_core.report.layers import energy, norms
from esm_core.report.origins import cost, lineage, loading
from esm_core.report.parts import Section
from esm_core.report.routes import routing
from esm_core.storage import Location

# Everything is escaped unless it was made by esmerge as markup: names and URLs come from recipes.
_TEMPLATES = Environment(
    loader=PackageLoader("esm_core.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(manifest: Manifest, analysis: Analysis | None, previous: Manifest | None) -> bytes:
    """The page as UTF-8.

    Parameters
    ----------
    manifest : dict
        Of the version. What it says of the report itself is left out, so a published version gives the
        page that was published with it.
    analysis : Analysis, optional
        None for versions of earlier releases: their page says what is not known any more.
    previous : dict, optional
        The manifest of the version before; None where there is none, or it cannot be read.
    """
    template = _TEMPLATES.get_template("report.html.j2")
    label = version_label(int(manifest["version"]))
    page = template.render(
        name=str(manifest["name"]),
        label=label,
        created=str(manifest.get("created", "")).replace("T", " ").replace("+00:00", " UTC"),
        tasks=len((manifest.get("inputs") or {}).get("tasks") or {}),
        sections=sections(manifest, analysis, previous),
    )
    return page.encode()


def sections(manifest: Manifest, analysis: Analysis | None, previous: Manifest | None) -> list[Section]:
    """The sections of the page, in order; one that has nothing to show says why."""
    return [
        summary(manifest, previous),
        accuracy(manifest),
        alpha(manifest),
        energy(analysis),
        interference(analysis),
        routing(manifest),
        norms(manifest, analysis),
        lineage(manifest),
        cost(manifest),
        loading(manifest),
    ]


def report_of(store: Location, version: Version) -> bytes:
    """The report of a published version: its own, verified, or one made of its manifest where it has none.

    Raises
    ------
    IntegrityError
        The published report is damaged.
    """
    if REPORT_NAME in version.manifest["files"]:
        return bytes(read_verified(version, REPORT_NAME))
    before = previous_manifest(store, version.manifest, str(version.manifest["name"]))
    return render_report(version.manifest, read_analysis(version), before)


def previous_manifest(store: Location, manifest: Manifest, name: str) -> Manifest | None:
    """The manifest of the version that a manifest names as its parent; None where it cannot be read."""
    parent = manifest.get("parent")
    if parent is None:
        return None
    try:
        return open_version(store, name, int(parent)).manifest
    except InputError:
        return None
