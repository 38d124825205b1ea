"""The inputs of the quick demo, trained once for all tests that start from them."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

Prepared = Callable[[Path], str]


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Prepared:
    """``quick_demo(folder)`` lays there what ``python -m demo --quick`` prepares; returns what that said."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    made, said = shared / "quick-demo", shared / "quick-demo.said"

    def prepared(folder: Path) -> str:
        with (shared / "quick-demo.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not said.exists():
                command = [sys.executable, "-m", "demo", "--out", str(made), "--quick"]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, timeout=280, cwd=ROOT
                )
                said.write_text(done.stdout)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return said.read_text()

    return prepared
