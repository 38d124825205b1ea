"""The routing benchmark runs, and routing is cheap even where the machine is busy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "routing.py"
KEYS = {
    "tasks",
    "rank",
    "batch",
    "layers",
    "router",
    "rounds",
    "ratio_to_static",
    "ratio_to_dense",
    "expert_bytes",
    "expert_bytes_predicted",
    "bank_bytes",
}


@pytest.mark.slow
@pytest.mark.alone
def test_quick_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--json", str(path)]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    rows = json.loads(path.read_text())
    assert all(row.keys() >= KEYS for row in rows)
    assert (rows[0]["layers"], rows[0]["router"]) == ("published", "token_moments")
    assert {row["layers"] for row in rows} == {"published", "four", "four+extras"}
    assert all(row["expert_bytes"] == row["expert_bytes_predicted"] > 0 for row in rows)
    assert all(row["bank_bytes"] > row["expert_bytes"] for row in rows)
    assert all(row["ratio_to_static"] < 1.6 for row in rows if row["batch"] == 32)
    assert all(row["ratio_to_dense"] < 1 for row in rows if row["batch"] == 32)
    assert all(row.get("flips", 0) == 0 for row in rows)
