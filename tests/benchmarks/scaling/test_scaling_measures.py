"""What is measured is what was done: bytes, memory, exponents, floors, one layer beside the textbook."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.scaling import ours, quick
from benchmarks.scaling.alone import peak_alone, prepare
from benchmarks.scaling.compare import compare_layer
from benchmarks.scaling.floor import decompose_flops, fuse_flops
from benchmarks.scaling.growth import exponent, hold, plot
from benchmarks.scaling.machine import machine_facts, threads
from benchmarks.scaling.problem import LayerProblem, layer_problems
from benchmarks.scaling.usage import Meter, Usage, measured, peak_rss
from esm_core.storage import Location

BLOCK = "visual.transformer.resblocks.6."
LAYERS = [
    LayerProblem(BLOCK + "attn.in_proj_weight", 96, 32, 80, tasks=3, blocks=12),
    LayerProblem(BLOCK + "attn.out_proj.weight", 32, 32, 80, tasks=3, blocks=12),
    LayerProblem(BLOCK + "mlp.c_proj.weight", 32, 128, 80, tasks=3, blocks=12),
]
RATES = {"float32": 2e10, "float64": 1e10}


def test_bytes_read_and_written_are_counted(tmp_path: Path) -> None:
    meter = Meter()
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    (tmp_path / "a").read_bytes()
    usage = meter.usage()
    assert 3_000_000 <= usage.written < 3_100_000
    assert 3_000_000 <= usage.read < 3_200_000


def test_the_peak_of_memory_remembers_what_was_given_back() -> None:
    held = torch.ones(50_000_000)
    peak = peak_rss()
    del held
    assert peak > 200e6
    # The kernel counts pages per core and adds them up now and then.
    assert peak_rss() > 0.99 * peak


def test_cpu_seconds_are_those_of_the_work() -> None:
    _, busy = measured(lambda: sum(range(3_000_000)))
    assert 0 < busy.cpu <= busy.wall * 1.5 + 0.1


def test_usages_add_up_but_for_the_peak() -> None:
    total = Usage(1, 2, 300, 4, 5) + Usage(10, 20, 100, 40, 50)
    assert total == Usage(11, 22, 300, 44, 55)


def test_an_exponent_is_found_again() -> None:
    assert exponent([2, 4, 8, 16], [3 * t**0.7 for t in (2, 4, 8, 16)]) == pytest.approx(0.7)
    assert math.isnan(exponent([8], [1.0]))


def test_threads_are_set_and_set_back() -> None:
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == machine_facts()["torch_threads"] == 2
    assert torch.get_num_threads() == before


def test_floors_grow_with_the_tasks_and_only_decomposing_in_proportion() -> None:
    (layer,) = [p for p in layer_problems("ViT-B-32", 8) if p.kind == "mlp.c_fc"]
    assert (layer.d_out, layer.d_in, layer.rows) == (3072, 768, 1600)
    # Twice the tasks of half the rank each.
    assert 1.4 < decompose_flops(layer.with_tasks(16)) / decompose_flops(layer.with_tasks(8)) < 2
    assert fuse_flops(layer.with_tasks(16)) == fuse_flops(layer)
    # E in float32, half: its Gram matrix, the reduction, reflections there and back, and the product.
    cube = 3072**3
    basis = (1 + 4 / 3 + 4 / 4 + 2 / 4) / 2
    assert basis * cube < fuse_flops(layer) < 1.2 * basis * cube


@pytest.mark.parametrize("problem", LAYERS, ids=lambda problem: problem.kind)
def test_one_layer_beside_the_textbook(problem: LayerProblem, tmp_path: Path) -> None:
    folder = Location.parse(str(tmp_path))
    row = compare_layer(problem, RATES, folder, reference=True)
    difference = row["difference"]
    # Bases and coordinates are fused as they are kept, in float32; the textbook computes in it throughout.
    assert difference["ours_to_reference"] < 1e-6
    assert 10 * difference["ours_to_reference"] < difference["textbook_to_reference"]
    assert difference["textbook"] < 1e-2
    assert row["incremental"]["difference"] < 1e-9
    assert row["stored_bytes"] > 3 * 8 * 32
    assert row["raw_shift_bytes"] == 3 * 80 * problem.d_out * 4
    assert row["cpu"]["ours"] == row["cpu"]["decompose"] + row["cpu"]["fuse"]


def test_the_ratios_are_of_all_layers_together(tmp_path: Path) -> None:
    rows = [compare_layer(problem, RATES, Location.parse(str(tmp_path)), False) for problem in LAYERS]
    found = quick.summary(rows)
    assert found["speedup_with_compression"] < found["speedup_over_textbook"]
    essential = rows[0]["stored_bytes"] + rows[2]["stored_bytes"]
    assert found["shift_store_ratio"] == essential / (3 * 80 * (96 + 32) * 4)
    assert found["max_relative_difference_to_reference"] is None


def test_growth_is_measured_on_factors_of_the_right_size() -> None:
    held = hold(LayerProblem(LAYERS[0].weight, 96, 32, 5000, tasks=3, blocks=12))
    assert all(factor.factor.shape == (32, 32) and factor.rows == 5000 for factor in held.factors)
    assert held.merge(2).shape == held.merge(3).shape == (96, 32)


def test_a_plot_of_the_same_figures_has_the_same_bytes(tmp_path: Path) -> None:
    tasks = {"tower": "x", "exponent": 0.5, "points": [{"tasks": t, "cpu": t**0.5} for t in (2, 8)]}
    width = {"tasks": 8, "exponent": 3.0, "points": [{"width": w, "cpu": w**3} for w in (384, 768)]}
    for name in ("a.svg", "b.svg"):
        plot(tasks, width, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.slow
def test_memory_is_of_a_process_that_merges_alone(tmp_path: Path) -> None:
    folder = Location.parse(str(tmp_path))
    for problem in layer_problems("ViT-S-32", 2):
        for task, rows in enumerate(problem.inputs()):
            factor = ours.compress(problem, problem.updates[task], rows)
            ours.store_shift(folder / problem.kind / str(task), problem, factor)
        prepare(folder, problem)
    found = peak_alone(folder, "ViT-S-32", 2, 1)
    assert found["rss_before"] < found["peak_rss"] < found["rss_before"] + 2**30
