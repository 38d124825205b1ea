"""versions, show, verify: what is published."""

from typing import Any

from esmerge.arguments import JsonOption, NameArgument, StoreOption, VersionArgument
from esmerge.command import Command, Panel
from esmerge.output import out, print_accuracy, print_json


def versions_command(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """List the published versions of an artifact."""
    from esm_core.artifacts import published_versions
    from esm_core.storage import Location

    root = Location.parse(store)
    found = [version.manifest for version in published_versions(root, name)]
    rows = [{"version": m["version"], "created": m["created"], "identity": m["identity"]} for m in found]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        out.print(f"v{row['version']:06d}  {row['created']}  {row['identity'][:12]}")
    if not rows:
        out.print(f"{name} has no published version in {root}")


def show_command(
    name: NameArgument, store: StoreOption, version: VersionArgument = "latest", as_json: JsonOption = False
) -> None:
    """Show a version: inputs, accuracy, files. With --json the whole manifest."""
    from esm_core.artifacts import open_version
    from esm_core.storage import Location

    found = open_version(Location.parse(store), name, version)
    if as_json:
        print_json(found.manifest)
        return
    manifest = found.manifest
    out.print(f"[bold]{name} {found.label}[/bold] of {manifest['created']} at {found.folder}")
    out.print(f"architecture {manifest['architecture']['name']}, alpha {manifest['alpha']}{_how(manifest)}")
    for task, facts in manifest["inputs"]["tasks"].items():
        out.print(f"  {task}: {facts['checkpoint']['url']} (sha256 {facts['checkpoint']['sha256'][:12]})")
    if manifest.get("experts"):
        _print_experts(manifest)
    for path, facts in manifest["files"].items():
        out.print(f"  {path}: {facts['bytes']} bytes, sha256 {facts['sha256'][:12]}")
    print_accuracy(manifest)


def verify_command(
    name: NameArgument, store: StoreOption, version: VersionArgument = "latest", as_json: JsonOption = False
) -> None:
    """Read every file of a version and compare it with the manifest."""
    from esm_core.artifacts import open_version, verify_version
    from esm_core.storage import Location

    found = open_version(Location.parse(store), name, version)
    verify_version(found)
    if as_json:
        print_json({"version": found.label, "files": len(found.manifest["files"]), "intact": True})
        return
    out.print(f"{name} {found.label}: {len(found.manifest['files'])} files, all intact")


def _how(manifest: Any) -> str:
    """How α was chosen; manifests of the first releases do not say it, theirs is always fixed."""
    search = manifest.get("alpha_search", {"method": "fixed"})
    if search["method"] == "fixed":
        return " (fixed)"
    best = max(score for _, score in search["curve"])
    return f" ({search['method']} search: best of {len(search['curve'])} values, score {best:.4f})"


def _print_experts(manifest: Any) -> None:
    from esm_core.model_card import confusions

    facts = manifest["experts"]
    settings, held_out = facts["settings"], facts["held_out"].get(facts["router"])
    static = manifest["files"]["model/open_clip_model.safetensors"]["bytes"]
    size = f"{facts['bytes'] / 1e6:.1f} MB beside a model of {static / 1e6:.1f} MB"
    out.print(f"experts: rank {settings['rank']}, {size}")
    known = f", right on {100 * held_out['accuracy']:.1f} % of held-out proxies" if held_out else ""
    out.print(f"router: {facts['router']}, decides once per {facts['scope']}{known}")
    if held_out and (wrong := confusions(held_out["confusion"])):
        out.print(f"  most often wrong: {', '.join(wrong)}")


COMMANDS = (
    Command(
        "versions",
        versions_command,
        Panel.VERSIONS,
        (
            "$ esmerge versions pets --store s3://models/esmerge",
            "$ esmerge versions pets --store store --json",
        ),
        '[{"version": 12, "created": "2026-01-31T10:00:00+00:00", "identity": "5f0c..."}]',
    ),
    Command(
        "show",
        show_command,
        Panel.VERSIONS,
        (
            "$ esmerge show pets --store store  # the newest",
            "$ esmerge show pets stable --store store  # what a channel points to",
            "$ esmerge show pets 12 --store store --json  # the whole manifest",
        ),
        '{"name": "pets", "version": 12, "created": "...", "alpha": 1.3, "inputs": {}, '
        '"metrics": {}, "files": {}}',
    ),
    Command(
        "verify",
        verify_command,
        Panel.VERSIONS,
        (
            "$ esmerge verify pets --store store",
            "$ esmerge verify pets stable --store store --json",
        ),
        '{"version": "v000012", "files": 4, "intact": true}',
    ),
)
