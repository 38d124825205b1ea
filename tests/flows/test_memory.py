"""Merging reads layers lazily: memory is bounded by a layer and one tower, not by all checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_merge_needs_less_than_a_quarter_of_its_checkpoints(tmp_path: Path) -> None:
    """All stages, on twelve fine-tunes whose total size is more than 4 times the memory allowed."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"}
    for step in ("build", "run"):
        command = [sys.executable, str(tests / "flows" / "memory_probe.py"), step, str(tmp_path)]
        probe = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=250)
        assert probe.returncode == 0, probe.stderr.decode()[-2000:]
    measured = json.loads(probe.stdout)
    allowed = 110 * 1024**2
    assert measured["checkpoints"] >= 4 * allowed
    assert measured["extra"] <= allowed, measured
