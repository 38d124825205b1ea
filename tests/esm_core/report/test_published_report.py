"""What a real merge publishes for its report, and that a report never breaks a publication."""

import hashlib
from pathlib import Path
from typing import IO

import pytest
import torch
from reports import manifest
from versions import make_version
from whole_merge import merge_whole
from world import World, build_world

from esm_core.arrays import read_array
from esm_core.artifacts import (
    Manifest,
    Version,
    Writer,
    open_version,
    publish_version,
    verify_version,
    version_numbers,
)
from esm_core.errors import IntegrityError, NewerFormatError
from esm_core.export import export_adapters
from esm_core.layer_merges import open_towers
from esm_core.loading import load
from esm_core.plan import Plan
from esm_core.report.analysis import Analysis, analyse, read_analysis
from esm_core.report.page import previous_manifest, render_report, report_of
from esm_core.report.spectra import measure_spectra, sampled, spectra_file
from esm_core.storage import Location
from esm_core.weights import Updates
from esm_core.writers import bytes_writer


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Plan, Version]:
    world = build_world(tmp_path_factory.mktemp("merged") / "world", tasks=("cats", "dogs"))
    world.recipe["experts"] = {"rank": 4, "router": "token_gaussian"}
    plan, version = merge_whole(world)
    return world, plan, version


def test_the_manifest_lists_both_files_like_every_other(merged: tuple[World, Plan, Version]) -> None:
    _, _, version = merged
    for path in ("analysis.json", "report.html"):
        data = (version.folder / path).read_bytes()
        facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert version.manifest["files"][path] == facts
    assert list(version.manifest["files"]) == sorted(version.manifest["files"])
    verify_version(version)


def test_the_published_page_is_made_of_the_manifest_and_the_analysis(
    merged: tuple[World, Plan, Version],
) -> None:
    world, _, version = merged
    again = open_version(world.store, "pets")
    before = previous_manifest(world.store, again.manifest, "pets")
    page = render_report(again.manifest, read_analysis(again), before)
    assert page == (version.folder / "report.html").read_bytes()
    assert report_of(world.store, again) == page


def test_the_analysis_is_what_the_merge_store_holds(merged: tuple[World, Plan, Version]) -> None:
    _, plan, version = merged
    found = read_analysis(version)
    assert found is not None
    assert found == analyse(plan)
    assert found.tasks == ["cats", "dogs"]
    assert list(found.layers) == plan.decomposed
    weight = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    layer = found.layers[weight]
    assert (layer.kind, layer.block, layer.rule, layer.shape) == ("mlp.c_fc", 1, "essential", (128, 32))
    assert layer.scale == pytest.approx(version.manifest["layer_scales"][weight], rel=1e-5)
    update = read_array(plan.layer_folder(weight), "update")
    assert layer.norm == pytest.approx(float((update**2).sum() ** 0.5), rel=1e-5)
    overlaps = read_array(plan.layer_folder(weight), "overlaps")
    assert layer.overlaps is not None
    assert layer.overlaps[0][1] == pytest.approx(overlaps[0, 1], abs=1e-4)
    energies = read_array(plan.layer_folder(weight), "eigenvalues")
    at = layer.curve_ranks.index(4)
    assert layer.essential is not None
    assert layer.essential[1] is not None
    assert layer.essential[1][at] == pytest.approx(energies[1, :4].sum() / energies[1].sum(), abs=1e-4)
    own = Updates(open_towers(plan), weight)
    assert layer.task_norms is not None
    for norm, update in zip(layer.task_norms, own, strict=True):
        assert 0.5 * float(update.norm()) < norm <= float(update.norm()), "few proxies reach not all of it"
    values = torch.linalg.svdvals(own[1]).square()
    assert layer.singular is not None
    assert layer.singular[1] is not None
    assert layer.singular[1][at] == pytest.approx(float(values[:4].sum() / values.sum()), abs=1e-4)


def test_a_weight_that_is_merged_by_tsv_m_has_singular_curves_only(
    merged: tuple[World, Plan, Version],
) -> None:
    found = read_analysis(merged[2])
    assert found is not None
    layer = found.layers["visual.transformer.resblocks.0.attn.out_proj.weight"]
    assert (layer.rule, layer.overlaps, layer.essential) == ("tsv_m", None, None)
    assert layer.singular is not None


def test_spectra_are_measured_once_for_a_fine_tune(
    merged: tuple[World, Plan, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = merged
    assert spectra_file(plan, "cats").is_file()
    assert sampled(plan.decomposed)
    monkeypatch.setattr("esm_core.report.spectra.open_tower", None)
    assert measure_spectra(plan, "cats") == spectra_file(plan, "cats")


def test_a_version_with_a_report_loads_and_exports(
    merged: tuple[World, Plan, Version], tmp_path: Path
) -> None:
    world, _, version = merged
    assert load(world.store.url, "pets", experts=True).manifest == version.manifest
    assert export_adapters(version, Location.parse(str(tmp_path / "out")))


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "store"))


def test_an_old_version_has_no_analysis_but_a_page(store: Location) -> None:
    version = make_version(store)
    assert read_analysis(version) is None
    verify_version(version)
    assert "no analysis.json" in report_of(store, version).decode()


def test_the_version_before_is_found_or_not(store: Location) -> None:
    first = make_version(store, metrics={"accuracy": {}})
    assert previous_manifest(store, {"parent": 1}, "pets") == first.manifest
    assert previous_manifest(store, {"parent": 7}, "pets") is None
    assert previous_manifest(store, {"parent": None}, "pets") is None
    (first.folder / "manifest.json").write_bytes(b"{}")
    assert previous_manifest(store, {"parent": 1}, "pets") is None


@pytest.mark.fault
def test_a_page_that_cannot_be_made_leaves_no_version(store: Location) -> None:
    def fail(content: Manifest) -> dict[str, Writer]:
        raise RuntimeError("no page")

    def half(content: Manifest) -> dict[str, Writer]:
        def write(stream: IO[bytes]) -> None:
            stream.write(b"<html>")
            raise RuntimeError("no page")

        return {"report.html": write}

    files = {"model/a": bytes_writer(b"a")}
    for last in (fail, half):
        with pytest.raises(RuntimeError, match="no page"):
            publish_version(store, "pets", files, {}, last)
    assert version_numbers(store, "pets") == []
    assert not any(path.endswith("report.html") for path in (store / "artifacts" / "pets").files())
    assert make_version(store).number == 3


def test_what_is_written_last_sees_the_rest_and_is_listed(store: Location) -> None:
    seen: list[Manifest] = []

    def last(content: Manifest) -> dict[str, Writer]:
        seen.append(dict(content))
        return {"a-page": bytes_writer(b"page")}

    version = publish_version(store, "pets", {"model/a": bytes_writer(b"a")}, {"alpha": 1.0}, last)
    assert list(seen[0]["files"]) == ["model/a"]
    assert (seen[0]["version"], seen[0]["alpha"]) == (1, 1.0)
    assert list(version.manifest["files"]) == ["a-page", "model/a"]
    verify_version(open_version(store, "pets"))


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"{}", IntegrityError), (b"[]", IntegrityError), (b'{"format": 99}', NewerFormatError)],
)
def test_an_analysis_that_cannot_be_read_is_refused(
    store: Location, content: bytes, error: type[Exception]
) -> None:
    version = publish_version(store, "pets", {"analysis.json": bytes_writer(content)}, {})
    with pytest.raises(error, match=r"analysis\.json"):
        read_analysis(version)


def test_a_page_of_an_earlier_release_shows_what_its_manifest_holds(store: Location) -> None:
    content = manifest(parent=None)
    kept = {key: content[key] for key in ("inputs", "metrics", "alpha", "layer_scales", "recipe")}
    version = publish_version(store, "pets", {"model/a": bytes_writer(b"a")}, kept)
    text = report_of(store, version).decode()
    assert "62.5" in text
    assert "β" in text


def test_equal_analyses_have_equal_bytes() -> None:
    one = Analysis(tasks=["b", "a"], layers={})
    assert one.content() == Analysis.model_validate_json(one.content()).content()
