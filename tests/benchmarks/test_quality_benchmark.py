"""The quality benchmark runs, goes on where it was interrupted, and measures what the product makes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick_demo import Prepared
from services import Command

from benchmarks.quality_parts.claims import ORDERING
from benchmarks.quality_parts.run import TASKS
from benchmarks.quality_parts.variants import QUICK
from demo.data import FASHION_MNIST

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "quality.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not FASHION_MNIST.is_dir(),
        reason="Fashion-MNIST is not installed (Debian: apt-get install dataset-fashion-mnist)",
    ),
]


def command(work: Path, json_path: Path, *more: str) -> list[str]:
    fixed = ["--quick", "--work", str(work), "--json", str(json_path), "--page", str(work / "page")]
    return [sys.executable, "-W", "error", str(SCRIPT), *fixed, *more]


def run(work: Path, *more: str) -> tuple[dict[str, Any], list[str]]:
    """The JSON, and which variants were measured: ``T: name``."""
    path = work / "result.json"
    done = subprocess.run(
        command(work, path, *more), check=True, timeout=1200, capture_output=True, text=True, env=ENVIRONMENT
    )
    measured = [line.split("T = ")[1] for line in done.stdout.splitlines() if line.startswith("seed 0, T = ")]
    return json.loads(path.read_text()), measured


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, quick_demo: Prepared) -> Path:
    """With the models of its one seed there already: they are the quick demo's."""
    folder = tmp_path_factory.mktemp("quality")
    quick_demo(folder / "quick-0")
    return folder


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def first(work: Path) -> tuple[dict[str, Any], list[str]]:
    """An interrupted run, and the one that went on."""
    process = subprocess.Popen(
        command(work, work / "interrupted.json"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    )
    while process.poll() is None and len(list(work.glob("results/*/*.json"))) < 6:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert not (work / "interrupted.json").exists()
    return run(work)


def test_a_run_goes_on_where_it_was_interrupted(first: tuple[dict[str, Any], list[str]]) -> None:
    _, measured = first
    assert 0 < len(measured) <= 2 * len(QUICK) - 6


def test_the_json_has_every_method_seed_and_number_of_tasks(first: tuple[dict[str, Any], list[str]]) -> None:
    report, _ = first
    assert report["normalized"].keys() >= {*ORDERING, "iso_c", "iso_cts", "esm_svd", "esm_pp_oracle"}
    assert report["seeds"] == [0]
    assert report["quick"]
    for count, summary in report["by_tasks"].items():
        assert summary["tasks"] == sorted(TASKS[int(count)])
        assert summary["normalized"]["experts"] == [1]
        assert all(len(values) == 1 for values in summary["normalized"].values())
        shares = [share for own in summary["accuracy"].values() for share in own[0].values()]
        assert all(0 <= share <= 1 for share in shares)
        assert all(
            sum(row) == pytest.approx(1, abs=1e-4) for row in summary["routing"]["esm_pp_route"]["confusion"]
        )
        for bases in summary["truncation"].values():
            for errors in bases.values():
                values = [error[0] for error in errors.values()]
                assert values == sorted(values, reverse=True)
                assert all(0 <= value <= 1 for value in values)
    assert report["normalized"] == report["by_tasks"]["8"]["normalized"]


def test_what_is_kept_is_read_and_what_is_damaged_is_made_again(
    first: tuple[dict[str, Any], list[str]], work: Path
) -> None:
    page = {path.name: path.read_bytes() for path in work.glob("page/quality_plots/*.svg")}
    (kept,) = work.glob("results/0-4/tsv_m-*.json")
    kept.write_bytes(kept.read_bytes()[:-7])
    again, measured = run(work)
    assert measured == ["4: tsv_m"]
    assert again["by_tasks"] == first[0]["by_tasks"]
    assert {path.name: path.read_bytes() for path in work.glob("page/quality_plots/*.svg")} == page
    assert len(page) == 5
    assert not list((ROOT / "benchmarks").glob("*.tmp"))


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_it_measures_what_the_product_publishes(
    first: tuple[dict[str, Any], list[str]], work: Path, esmerge: Command
) -> None:
    folder = work / "quick-0"
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["tasks"] = [task for task in recipe["tasks"] if task["name"] in TASKS[4]]
    recipe["compare"] = [
        {"method": name} for name in ("average", "task_arithmetic", "tsv_m", "iso_c", "iso_cts")
    ]
    (folder / "four.yaml").write_text(yaml.safe_dump(recipe))
    merged = esmerge("merge", folder / "four.yaml")
    assert merged.code == 0, merged.err
    (path,) = (folder / "store" / "artifacts" / recipe["name"]).glob("v*/manifest.json")
    manifest = json.loads(path.read_text())
    summary = first[0]["by_tasks"]["4"]
    assert summary["coefficient"]["esm"][0] == manifest["alpha"]
    published = manifest["metrics"]["accuracy"]
    assert published.keys() >= {*ORDERING, "iso_cts", "esm_pp_oracle"}
    for method, accuracy in published.items():
        assert summary["accuracy"][method][0] == pytest.approx(accuracy, abs=1e-6), method
