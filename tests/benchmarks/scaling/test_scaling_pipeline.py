"""The real pipeline is measured stage by stage, and a killed measurement is continued."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fine_tunes import TINY
from benchmarks.scaling.loads import measure
from benchmarks.scaling.loads import table as load_table
from benchmarks.scaling.pipeline import MERGING, Setting, ninth, ninth_table, pipeline, table
from benchmarks.scaling.stage import STAGES, read_record, run_stage
from benchmarks.scaling.usage import peak_rss


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    work = tmp_path_factory.mktemp("bench")
    return Setting(tower=TINY, work=work, workers=2, collectors=1, threads=1, isolated=False)


@pytest.fixture(scope="module")
def report(setting: Setting) -> dict[str, Any]:
    return pipeline(setting, 2)


def test_every_stage_is_measured(report: dict[str, Any]) -> None:
    stages = report["stages"]
    assert list(stages) == list(STAGES)
    assert (stages["collect"]["parts"], stages["merge"]["parts"]) == (2, 50)
    for stage in stages.values():
        assert stage["wall"] > 0
        assert stage["cpu"] > 0
        assert stage["peak_rss"] > 50e6
    assert stages["inspect"]["read"] >= report["checkpoint_bytes"], "every input is read once, for its digest"
    assert stages["publish"]["written"] >= stages["finish"]["written"] / 2 > 0
    assert report["merging"]["wall"] == pytest.approx(sum(stages[name]["wall"] for name in MERGING))
    assert report["shift_bytes"] == report["store_bytes"]["shifts"] > 0
    # 4 patches and the class token of 32 images, widths 96, 128 and 32 in each of 12 blocks, 2 tasks, float32
    assert report["raw_shift_bytes"] == 2 * 12 * 32 * 5 * (96 + 128 + 32) * 4
    assert "peak memory" in "\n".join(table(report))


def test_what_is_measured_is_not_measured_again(setting: Setting, report: dict[str, Any]) -> None:
    assert pipeline(setting, 2) == report


def test_one_fine_tune_more(setting: Setting) -> None:
    found = ninth(setting, 2, rounds=2)
    assert found["added"]["tasks"] == found["cold"]["tasks"] == 3
    assert found["added"]["stages"]["collect"]["written"] < found["cold"]["stages"]["collect"]["written"] / 2
    assert 0 < found["cpu_ratios"][0] < found["cpu_ratios"][1] == found["cpu_ratio"]
    assert f"in all rounds {found['cpu_ratios'][0]:.3f}, " in ninth_table(found)[-1]


def test_loading_is_set_against_bare_loads(setting: Setting, report: dict[str, Any]) -> None:
    found = measure(setting.work / "store", "bench", rounds=1)
    assert set(found["ratios"]) == {"mapped", "touched", "read", "copied"}
    assert found["bytes"] > 0
    assert "×" in "\n".join(load_table(found))


def test_a_killed_stage_is_continued(setting: Setting, report: dict[str, Any], tmp_path: Path) -> None:
    recipe = next(setting.work.glob("recipe-2-store.yaml"))
    run_stage("inspect", recipe, tmp_path / "inspect.json", 1)
    killed = json.loads((tmp_path / "inspect.json").read_text())
    usage = {**killed["usage"], "wall": 1000.0}
    (tmp_path / "merge.json").write_text(json.dumps({**killed, "usage": usage, "parts": 50, "done": 7}))
    assert not read_record(tmp_path / "merge.json").finished
    run_stage("merge", recipe, tmp_path / "merge.json", 1)
    record = read_record(tmp_path / "merge.json")
    assert record.finished
    assert record.attempts == 2
    assert record.usage.wall > 1000


@pytest.mark.slow
def test_a_stage_in_a_process_of_its_own_has_its_own_peak(setting: Setting, tmp_path: Path) -> None:
    held = b"x" * 600_000_000
    found = pipeline(replace(setting, work=tmp_path / "isolated", isolated=True), 2)
    assert found["stages"]["finish"]["peak_rss"] < peak_rss() - len(held) / 2
