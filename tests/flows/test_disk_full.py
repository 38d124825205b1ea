"""A disk that fills up during a merge: a clear error, nothing that looks whole, and a rerun completes."""

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from services import Command
from world import World

from esm_core.errors import InputError
from esm_core.storage import Location

pytestmark = [pytest.mark.fault, pytest.mark.server]

MODEL = "artifacts/pets/v000001/model/open_clip_model.safetensors"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB, which a store of the tiny world does not fit in."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("prefect_server")
def test_a_merge_on_a_full_disk_names_it_and_a_rerun_with_space_completes(
    make_world: Callable[..., World], esmerge: Command, small_disk: Path
) -> None:
    undisturbed, world = make_world("undisturbed", test=False), make_world("full", test=False)
    assert esmerge("merge", undisturbed.recipe_path).code == 0
    world.recipe["store"] = str(small_disk / "store")
    outcome = esmerge("merge", world.recipe_path)
    assert outcome.code == 2, outcome.err
    assert str(small_disk) in outcome.err
    assert "the disk is full" in outcome.err
    store = small_disk / "store"
    assert not list(store.rglob("manifest.json"))
    assert not [path for path in store.rglob("*") if path.suffix in (".tmp", ".partial")]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    outcome = esmerge("merge", world.recipe_path)
    assert outcome.code == 0, outcome.err
    assert digest(store / MODEL) == digest(undisturbed.root / "store" / MODEL)


LIMITED = """
import resource, signal, sys
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from esm_core.arrays import write_arrays
from esm_core.storage import Location
from esm_core.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
here = Location.parse(sys.argv[1])
def stream():
    with (here / "streamed").writer() as target:
        for _ in range(100):
            target.write(bytes(1000))
for act in (
    lambda: (here / "whole").write_bytes(bytes(100_000)),
    stream,
    lambda: (here / "created").create(bytes(100_000)),
    lambda: write_arrays(here / "group", {"a": np.ones(20_000)}),
):
    try:
        act()
    except InputError as error:
        print(error)
    else:
        sys.exit("nothing was raised")
"""


def test_a_write_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ("whole", "streamed", "created", "group"), strict=True):
        assert line.startswith(f"file://{tmp_path}/{name}: cannot write it: the disk is full")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "zarr.json"]


def test_a_full_folder_for_downloads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    from esm_core.storage_errors import storage_errors

    with pytest.raises(InputError, match=r"^/dev/full: cannot write it: the disk is full"):  # noqa: SIM117
        with storage_errors("/dev/full", "write"), open("/dev/full", "wb") as target:
            target.write(bytes(100_000))
    assert not Location.parse(str(tmp_path)).files()
