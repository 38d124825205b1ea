"""The sections about where a version comes from, what it cost, and how it is loaded."""

import shlex
from collections.abc import Mapping
from typing import Any

from esm_core.artifacts import Manifest
from esm_core.claims import version_label
from esm_core.report import REPORT_NAME
from esm_core.report.charts import Bar, bars
from esm_core.report.parts import Code, Figure, Section, Table, plural, size
from esm_core.report.verdict import tasks_of


def lineage(manifest: Manifest) -> Section:
    """Base, fine-tunes and images, each with its digest."""
    inputs, title = manifest.get("inputs") or {}, "Lineage"
    if not inputs:
        return Section("lineage", title, lead=["The manifest names no inputs."])
    architecture = manifest.get("architecture") or {}
    recipes = {spec["name"]: spec for spec in (manifest.get("recipe") or {}).get("tasks", [])}
    lead = [
        f"Architecture {architecture.get('name')} ({architecture.get('activation')}); text tower: "
        f"{architecture.get('text_tower')}. Every digest is a sha256 of contents; identity of this version: "
        f"{manifest.get('identity', 'not noted')}."
    ]
    rows = [["base", *_checkpoint(inputs.get("base") or {})]]
    for task, facts in tasks_of(manifest).items():
        landed = (recipes.get(task) or {}).get("landed")
        rows.append([f"{task} ({landed})" if landed else task, *_checkpoint(facts)])
    header = ["model", "checkpoint", "sha256 of the file", "sha256 of the weights", "layout", "size"]
    tables = [Table("Base and fine-tunes", header, rows, texts=5, digests=frozenset({2, 3}))]
    images = [row for task, facts in tasks_of(manifest).items() for row in _images(task, facts)]
    header = ["task", "images", "where", "sha256", "number"]
    tables.append(Table("Images", header, images, texts=4, digests=frozenset({3}), folded=True))
    libraries = [[name, value] for name, value in sorted((manifest.get("libraries") or {}).items())]
    if libraries:
        tables.append(Table("Libraries", ["library", "version"], libraries, texts=2))
    return Section("lineage", title, lead=lead, tables=tables)


def cost(manifest: Manifest) -> Section:
    """What each stage of the run took, and the files it published."""
    stages = (manifest.get("run") or {}).get("stages") or []
    lead, figures, tables = [], [], []
    if stages:
        seconds = sum(stage["seconds"] for stage in stages)
        lead.append(
            f"The stages took {_seconds(seconds)} together. What is called reused was in the store already, "
            "made by an earlier run."
        )
        rows = [Bar(s["name"], s["seconds"], _seconds(s["seconds"]), "c1") for s in stages]
        limit = max(stage["seconds"] for stage in stages)
        figures.append(Figure("Wall time per stage", bars("cost-stages", "Wall time per stage", rows, limit)))
        table = [
            [s["name"], f"{s['seconds']:.1f}", str(s["parts"]), str(s["reused"]), size(s["bytes"])]
            for s in stages
        ]
        tables.append(Table("Stages", ["stage", "seconds", "parts", "reused", "output"], table))
    else:
        lead.append("The manifest does not say what the stages of the run took.")
    files = {p: f for p, f in (manifest.get("files") or {}).items() if p != REPORT_NAME}
    if files:
        total = sum(facts["bytes"] for facts in files.values())
        lead.append(f"{plural(len(files), 'file')} beside this report, {size(total)}.")
        listed = [[path, size(facts["bytes"]), facts["sha256"]] for path, facts in sorted(files.items())]
        header = ["file", "size", "sha256"]
        tables.append(Table("Files", header, listed, texts=3, digests=frozenset({2})))
    return Section("cost", "Stage times and bytes", lead=lead, figures=figures, tables=tables)


def loading(manifest: Manifest) -> Section:
    """How to use this version."""
    name, label = str(manifest["name"]), version_label(int(manifest["version"]))
    store = str((manifest.get("recipe") or {}).get("store") or "STORE")
    codes = [
        Code(
            "In Python, every checksum verified",
            "import esm_core\n\n"
            f"loaded = esm_core.load({store!r}, {name!r}, {label!r})\n"
            "model, preprocess = loaded.model, loaded.preprocess",
        )
    ]
    if manifest.get("experts"):
        codes.append(
            Code(
                "With routed experts: every image finds its own",
                f"loaded = esm_core.load({store!r}, {name!r}, {label!r}, experts=True)",
            )
        )
    codes.append(
        Code(
            "In plain open_clip, without esmerge",
            "import open_clip\n\n"
            "model, _, preprocess = open_clip.create_model_and_transforms(\n"
            "    'local-dir:FOLDER_OF_THIS_REPORT/model'\n)",
        )
    )
    commands = f"esmerge show {name} {label} --store {shlex.quote(store)}\n"
    commands += f"esmerge verify {name} {label} --store {shlex.quote(store)}"
    if manifest.get("parent") is not None:
        before = version_label(int(manifest["parent"]))
        commands += f"\nesmerge compare {name} {before} {label} --store {shlex.quote(store)}"
    codes.append(Code("On the command line", commands))
    return Section("load", "How to load it", codes=codes)


def _checkpoint(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("checkpoint") or {}
    return [
        str(found.get("url", "not noted")),
        str(found.get("sha256", "not noted")),
        str(found.get("tensors_sha256", "not noted")),
        str(found.get("layout", "not noted")),
        size(found["bytes"]) if "bytes" in found else "–",
    ]


def _images(task: str, facts: Mapping[str, Any]) -> list[list[str]]:
    rows, proxies = [], facts.get("proxies") or {}
    if proxies:
        samples = str(len(proxies.get("samples") or []))
        rows.append([task, "proxies", str(proxies.get("url")), str(proxies.get("sha256")), samples])
    if proxies.get("routing_samples"):
        count = str(len(proxies["routing_samples"]))
        digest = str(proxies.get("routing_sha256"))
        rows.append([task, "proxies of the router", str(proxies.get("url")), digest, count])
    for kind in ("validation", "test"):
        found = facts.get(kind)
        if found:
            rows.append([task, kind, str(found["url"]), str(found["sha256"]), str(found["count"])])
    return rows


def _seconds(value: float) -> str:
    minutes, seconds = divmod(value, 60)
    return f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{value:.1f} s"
