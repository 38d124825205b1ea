"""The quick benchmark runs, is right, and no ratio has fallen by a third."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling.guard import fallen, read_baseline

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_ratio_has_fallen_by_a_third(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--json", str(path)]
    subprocess.run(command, check=True, timeout=880, stdout=subprocess.PIPE)
    report = json.loads(path.read_text())
    assert report["max_relative_difference"] < 1e-3
    exact, float32 = (f"{who}max_relative_difference_to_reference" for who in ("", "textbook_"))
    assert report[exact] < report[float32]
    assert report["peak_rss_bytes"] > 0
    problems = fallen(report, read_baseline())
    assert not problems, "\n".join(problems)
