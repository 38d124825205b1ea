"""The demo as make runs it, with little training: prepare, merge, show, up to date."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from quick_demo import Prepared
from services import Command

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.mark.usefixtures("prefect_server")
def test_the_quick_demo_publishes_and_a_second_run_is_up_to_date(
    tmp_path: Path, quick_demo: Prepared, esmerge: Command
) -> None:
    assert "ready" in quick_demo(tmp_path)
    prepare = [sys.executable, "-m", "demo", "--out", str(tmp_path), "--quick"]
    again = subprocess.run(prepare, capture_output=True, text=True, check=True, timeout=60)
    assert "fine-tuning" not in again.stdout
    merged = esmerge("merge", tmp_path / "recipe.yaml")
    assert merged.code == 0, merged.err
    assert "published demo v000001" in merged.out
    assert "ESM" in merged.out
    shown = json.loads(esmerge("show", "--store", tmp_path / "store", "demo", "--json").out)
    methods = {"base", "experts", "average", "task_arithmetic", "tsv_m", "iso_c", "esm"}
    methods |= {"esm_pp_route", "esm_pp_oracle"}
    assert set(shown["metrics"]["accuracy"]) == methods
    assert len(shown["metrics"]["accuracy"]["esm"]) >= 7
    assert shown["experts"]["held_out"][shown["experts"]["router"]]["accuracy"] > 0.5
    layouts = {task["checkpoint"]["layout"] for task in shown["inputs"]["tasks"].values()}
    assert len(layouts) == 2, "one fine-tune has model.visual. keys"
    assert "up to date" in esmerge("merge", tmp_path / "recipe.yaml").out
