"""docs/extending.md: its three files pass the suites it shows, which are run as they stand there."""

import ast
import atexit
import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from acme import FILES, PACKAGE, PAGE, blocks, installed, source
from test_imports import imported

from esm_core.architecture import load_architecture, tower_shapes
from esm_core.storage import Location
from esm_core.testing import LayoutTests, MergeMethodTests

_SITE = Path(tempfile.mkdtemp(prefix="esmerge-extending-"))
atexit.register(shutil.rmtree, _SITE, True)

# The suites are collected from here, so their package is installed while this module is imported too.
with installed(_SITE):
    exec(source("test_acme_esmerge.py"), globals())  # noqa: S102  of the page beside this test
    _MODULES = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_SITE))
    for name, module in _MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.s3
class TestNpzImagesOnS3(TestNpzImages):  # type: ignore[name-defined]  # noqa: F821  made by exec
    @pytest.fixture
    def folder(self, bucket, request):
        return bucket / type(self).__name__ / request.node.name / "images"


def test_the_suites_of_the_page_are_run_here() -> None:
    suites = {name for name in globals() if name.startswith("Test")}
    assert {"TestTies", "TestTimmClip", "TestNpzImages"} <= suites
    assert issubclass(globals()["TestTies"], MergeMethodTests)
    assert issubclass(globals()["TestTimmClip"], LayoutTests)


def test_every_python_block_of_the_page_is_one_of_its_files() -> None:
    files = [source(file) for file in (*FILES, "test_acme_esmerge.py")]
    assert blocks("python") == files
    for text in files:
        assert ast.parse(text)


def test_the_configuration_of_a_plain_vit_is_one_of_open_clip(tmp_path: Path) -> None:
    (config,) = blocks("json")
    (tmp_path / "config.json").write_text(config)
    found = load_architecture(str(tmp_path / "config.json"), Location.parse(str(tmp_path)))
    shapes = tower_shapes(found)
    assert not any("ln_pre" in name for name in shapes)
    assert shapes["visual.positional_embedding"] == (197, 768)
    assert json.loads(config)["model_cfg"]["vision_cfg"]["norm_kwargs"] == {"eps": 1e-12}


def test_folders_and_files_that_the_page_names_are_there() -> None:
    root = PAGE.parents[1]
    for path in ("esm_core/methods", "esm_core/checkpoints/layouts", "esm_core/images"):
        assert f"`{path}/`" in PAGE.read_text()
        assert (root / path / "__init__.py").is_file()
    assert (root / "tests/extending/test_own_extensions.py").is_file()


def test_only_the_suites_need_pytest_and_nothing_of_esmerge_needs_them() -> None:
    for module, names in imported("esm_core").items():
        if not module.startswith("esm_core/testing/"):
            assert not names & {"pytest", "hypothesis"}, module
            assert "esm_core.testing" not in (PAGE.parents[1] / module).read_text(), module
