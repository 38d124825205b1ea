"""What is said where an extension cannot be used: one sentence that names it and what it lacks."""

from pathlib import Path
from types import ModuleType

import pytest
from acme import Installed
from safetensors.torch import save_file
from torch import ones

from esm_core.checkpoints import open_checkpoint, vision_checkpoint
from esm_core.checkpoints.layouts import as_layout
from esm_core.errors import ExtensionError, InputError
from esm_core.extensions import GROUPS, codes, installed, load, versions
from esm_core.images import ImageSource, open_images, sources_in
from esm_core.methods import BASELINES, as_baseline, baseline, baselines_in, method_names, method_title
from esm_core.storage import Location

METHODS, LAYOUTS, IMAGES = GROUPS


def module(name: str, **content: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


# Files in esmerge's own folders.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"COEFFICIENT": 1.0, "merge_weight": sum}, "lacks TITLE; a merge method has TITLE, COEFFICIENT"),
        ({"TITLE": "X"}, "lacks COEFFICIENT, merge_weight"),
        ({"TITLE": "A | B", "COEFFICIENT": 1.0, "merge_weight": sum}, "TITLE must be one line"),
        ({"TITLE": "X", "COEFFICIENT": 0, "merge_weight": sum}, "COEFFICIENT must be above 0, got 0"),
        ({"TITLE": "X", "COEFFICIENT": True, "merge_weight": sum}, "COEFFICIENT must be above 0, got True"),
        ({"TITLE": "X", "COEFFICIENT": 1, "merge_weight": 3}, "merge_weight is 3, expected a function"),
    ],
)
def test_half_a_merge_method_is_told_what_it_lacks(content: dict[str, object], told: str) -> None:
    with pytest.raises(ExtensionError, match=rf"^esm_core\.methods\.x: {told.replace('|', '.')}"):
        baselines_in({"x": module("esm_core.methods.x", **content)})


def test_a_module_beside_the_methods_is_no_method() -> None:
    assert baselines_in({"x": module("x", helper=1)}) == {}
    assert "esm" not in BASELINES


def test_a_method_cannot_have_the_name_of_another_column() -> None:
    whole = module("esm_core.methods.base", TITLE="X", COEFFICIENT=1, merge_weight=sum)
    with pytest.raises(ExtensionError, match="'base' is no name for a merge method"):
        baselines_in({"base": whole})


def test_methods_come_in_the_order_of_their_names() -> None:
    assert list(BASELINES) == sorted(BASELINES)
    assert method_names() == tuple(BASELINES)


def test_half_a_naming_scheme_is_told_what_it_lacks() -> None:
    with pytest.raises(ExtensionError, match=r"^x: lacks find_tower; a naming scheme has TITLE, find_tower"):
        as_layout(module("x", TITLE="X"))


def test_half_an_image_source_is_told_what_it_lacks() -> None:
    half = type("Half", (ImageSource,), {"__module__": "x", "kind": "halves"})
    with pytest.raises(
        ExtensionError, match=r"^x\.Half: lacks suffixes, _list_ids, _read of an image source"
    ):
        sources_in(module("x", Half=half, ImageSource=ImageSource))


# Packages.


def test_what_is_installed_is_known_by_name_version_and_content(acme: Installed) -> None:
    assert versions() == {"acme-esmerge": "1.0"}
    (code,) = codes(METHODS)
    assert (code["distribution"], code["version"], len(code["sha256"])) == ("acme-esmerge", "1.0", 64)
    assert method_names() == (*BASELINES, "ties")
    assert (method_title("ties"), method_title("never_installed")) == ("TIES", "never_installed")


def test_code_is_known_by_what_was_loaded_not_by_what_the_file_became(acme: Installed) -> None:
    before = codes(METHODS)
    with (acme.folder / "acme_esmerge/ties.py").open("a") as file:
        file.write("# edited while it runs\n")
    assert codes(METHODS) == before


def test_a_method_is_not_loaded_until_it_is_asked_for(acme: Installed) -> None:
    (acme.folder / "acme_esmerge/ties.py").write_text("raise RuntimeError('loaded')\n")
    assert "ties" in method_names()
    assert baseline("average").code is None
    with pytest.raises(
        ExtensionError, match=r"acme-esmerge 1\.0: 'acme_esmerge\.ties' cannot be loaded \(Runt"
    ):
        baseline("ties")


@pytest.mark.parametrize("name", ["tsv_m", "esm"])
def test_a_package_cannot_replace_what_esmerge_has(acme: Installed, name: str) -> None:
    acme.write(points={METHODS: {name: "acme_esmerge.ties"}})
    with pytest.raises(
        ExtensionError, match=rf"acme-esmerge 1\.0: adds '{name}' to esmerge\.methods, a name that"
    ):
        method_names()


def test_two_packages_cannot_have_one_name(acme: Installed) -> None:
    acme.write("other", points={METHODS: {"ties": "acme_esmerge.ties"}})
    with pytest.raises(ExtensionError, match=r"acme-esmerge 1\.0 and other 1\.0 both add 'ties'"):
        baseline("ties")


def test_an_entry_point_names_a_module(acme: Installed) -> None:
    acme.write(points={METHODS: {"ties": "acme_esmerge.ties:merge_weight"}})
    (point,) = installed(METHODS).values()
    with pytest.raises(
        ExtensionError, match=r"'acme_esmerge\.ties:merge_weight' is not a module with a file"
    ):
        load(point)


def test_a_module_of_another_kind_is_told_what_it_lacks(acme: Installed, tmp_path: Path) -> None:
    acme.write(points={METHODS: {"x": "acme_esmerge.npz_images"}, IMAGES: {"y": "acme_esmerge.ties"}})
    with pytest.raises(
        ExtensionError, match=r"acme_esmerge\.npz_images: lacks TITLE, COEFFICIENT, merge_weight"
    ):
        baseline("x")
    (tmp_path / "images").mkdir()
    with pytest.raises(ExtensionError, match=r"acme-esmerge 1\.0: acme_esmerge\.ties has no image source"):
        open_images(Location.parse(str(tmp_path / "images")))


def test_a_checkpoint_that_two_schemes_understand_is_refused(acme: Installed, tmp_path: Path) -> None:
    (acme.folder / "acme_esmerge/other.py").write_text(
        (acme.folder / "acme_esmerge/timm_clip.py").read_text().replace('TITLE = "timm', 'TITLE = "other')
    )
    acme.write(points={LAYOUTS: {"a": "acme_esmerge.timm_clip", "b": "acme_esmerge.other"}})
    save_file(
        {"norm_pre.weight": ones(2), "blocks.0.attn.qkv.weight": ones(6, 2)}, tmp_path / "x.safetensors"
    )
    checkpoint = open_checkpoint(Location.parse(str(tmp_path / "x.safetensors")))
    with pytest.raises(
        InputError, match=r"x\.safetensors: its names fit timm CLIP ViT .* and other CLIP ViT"
    ):
        vision_checkpoint(checkpoint)


def test_installing_a_source_changes_nothing_of_what_esmerge_reads(acme: Installed, tmp_path: Path) -> None:
    for name in ("a.png", "b.npz"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    assert open_images(Location.parse(str(tmp_path / "images"))).sample_ids() == ["a.png"]
    assert as_baseline(module("x", TITLE="X", COEFFICIENT=1, merge_weight=sum)).summary == "X"
