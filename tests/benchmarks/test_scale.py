"""The quick benchmark runs, is right, and no ratio has fallen by a third."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fine_tunes import TINY
from benchmarks.scaling.command import main
from benchmarks.scaling.guard import fallen, read_baseline

RATIOS = {
    "speedup_over_textbook",
    "max_relative_difference",
    "shift_store_ratio",
    "incremental_ratio",
    "peak_rss_bytes",
}
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.mark.slow
@pytest.mark.alone
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


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("form", [[str(SCRIPT)], ["-m", "benchmarks.scale"]], ids=["script", "module"])
def test_the_quick_run_writes_what_is_promised(form: list[str], tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    command = [sys.executable, "-W", "error", *form, "--quick", "--tower", tiny, "--tasks", "2"]
    subprocess.run([*command, "--json", str(path)], check=True, cwd=SCRIPT.parents[1], capture_output=True)
    report = json.loads(path.read_text())
    assert report.keys() >= RATIOS
    assert all(isinstance(report[name], float | int) and report[name] > 0 for name in RATIOS)
    assert [row["kind"] for row in report["layers"]] == [
        "attn.in_proj",
        "attn.out_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    ]


@pytest.mark.slow
def test_a_finished_part_is_read_again(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [tmp_path / f"{turn}.md" for turn in ("first", "again", "fresh")]
    for table in tables:
        options = ["--part", "compare", "--tower", tiny, "--tasks", "2", "--work", str(tmp_path / "work")]
        fresh = ["--fresh"] if table.stem == "fresh" else []
        monkeypatch.setattr(sys, "argv", ["scale.py", *options, "--markdown", str(table), *fresh])
        main()
    first, again, fresh = (table.read_text() for table in tables)
    assert "speed-up over the textbook" in first
    assert first == again != fresh
