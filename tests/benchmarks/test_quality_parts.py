"""The parts of the quality benchmark, on random data and invented figures."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality_parts import labels
from benchmarks.quality_parts.aggregate import spread, summarise
from benchmarks.quality_parts.claims import ORDERING, Claim, judge, ordering, truncation_holds
from benchmarks.quality_parts.cli import make_report
from benchmarks.quality_parts.kept import kept_json, kept_tensors, read_kept, write_kept
from benchmarks.quality_parts.lines import Line
from benchmarks.quality_parts.page import lines
from benchmarks.quality_parts.proxies import faces
from benchmarks.quality_parts.run import TASKS, digest
from benchmarks.quality_parts.static import Esm, isotropic
from benchmarks.quality_parts.truncation import truncation_errors
from benchmarks.quality_parts.variant import Figures
from benchmarks.quality_parts.variants import QUICK, SPECTRAL_GRID, SUM_GRID, VARIANTS
from esm_core.esd import essential_basis
from esm_core.factor import InputFactor
from esm_core.methods import BASELINES
from esm_core.settings import MergeSettings

# What is kept.


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made: Iterator[int] = iter(range(9))
    for _ in range(2):
        assert kept_json(tmp_path / "a.json", lambda: {"value": next(made)}) == {"value": 0}
    for _ in range(2):
        kept = kept_tensors(tmp_path / "a.tensors", lambda: {"x": torch.full((2,), float(next(made)))})
        assert kept["x"].tolist() == [1, 1]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"[" + data[1:], lambda data: b""])
def test_a_damaged_kept_file_is_made_again(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "a.json"
    kept_json(path, lambda: {"value": 1})
    path.write_bytes(damage(path.read_bytes()))
    assert read_kept(path) is None
    assert kept_json(path, lambda: {"value": 2}) == {"value": 2}
    assert read_kept(path) == b'{\n "value": 2\n}'


def test_nothing_is_left_of_a_write_but_the_file(tmp_path: Path) -> None:
    write_kept(tmp_path / "deep" / "a", b"content")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]
    assert read_kept(tmp_path / "absent") is None


def test_a_result_is_known_by_all_that_determines_it() -> None:
    esm = Esm("esm")
    others = [
        replace(esm, settings=MergeSettings(inter_task=False)),
        replace(esm, basis="svd"),
        replace(esm, searches=("label_free",)),
    ]
    assert len({digest(variant, "models") for variant in (esm, *others)}) == 4
    assert digest(esm, "models") == digest(Esm("esm"), "models") != digest(esm, "other models")


# Variants.


def test_every_variant_has_a_name_of_its_own_and_an_identity() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(names)
    assert len({digest(variant, "") for variant in VARIANTS}) == len(names)
    assert len(TASKS[4]) == 4
    assert set(TASKS[4]) < set(TASKS[8])


def test_the_grids_hold_the_default_coefficients() -> None:
    assert BASELINES["task_arithmetic"].coefficient in SUM_GRID
    assert all(BASELINES[name].coefficient in SPECTRAL_GRID for name in ("tsv_m", "iso_c", "iso_cts"))


def test_with_inputs_that_prefer_no_direction_esd_is_svd() -> None:
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    inputs = isotropic(InputFactor(torch.randn(30, 8, generator=generator, dtype=torch.float64), 30))
    left, values, _ = torch.linalg.svd(update, full_matrices=False)
    basis, eigenvalues = essential_basis(update, inputs)
    torch.testing.assert_close((left.mT @ basis).abs(), torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(eigenvalues, values.square() / 29)


def test_esd_loses_least_on_its_own_inputs_and_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(40, 60, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -3, 60, dtype=torch.float64)
    inputs = InputFactor(torch.randn(90, 60, generator=generator, dtype=torch.float64) * scales, 90)
    esd, svd = (truncation_errors(update, own, inputs) for own in (inputs, isotropic(inputs)))
    energies = essential_basis(update, inputs).eigenvalues
    expected = [float(energies[rank:].sum() / energies.sum()) for rank in (2, 4, 10)]
    assert esd == pytest.approx(expected)
    assert all(ours < theirs for ours, theirs in zip(esd, svd, strict=True))


def test_a_line_moves_only_what_has_a_direction() -> None:
    line = Line({"a": torch.ones(2).double(), "b": torch.ones(2)}, {"a": torch.full((2,), 2.0)})
    assert {name: tensor.tolist() for name, tensor in line.at(1.5).items()} == {"a": [4, 4], "b": [1, 1]}
    assert line.at(1.0)["a"].dtype == torch.float32


def test_images_of_no_task_are_there() -> None:
    images = faces(32)
    assert (images.shape, images.dtype) == ((32, 3, 32, 32), torch.float32)
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 32


# Figures, claims, page.


def figures(test: dict[str, float], **facts: Any) -> dict[str, Any]:
    content = Figures(test, facts=facts).as_json()
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def one_seed(esm: float) -> dict[str, Any]:
    """Columns of one seed, of two tasks whose fine-tunes are right in 80 and 50 % of images."""
    routing = {"layer 0": {"a": [8, 2], "b": [5, 5]}, "layer 1": {"a": [6, 4], "b": [0, 10]}}
    error = dict(zip(bases(), (0.4, 0.2, 0.5, 0.5, 0.5), strict=True))
    errors = {"mlp.c_fc": {basis: {"0.05": value} for basis, value in error.items()}}
    shares = {"base": 0.5, "average": 0.6, "task_arithmetic": 0.65, "tsv_m": 0.7, "iso_c": 0.75, "esm": esm}
    both = {column: figures({"a": 0.8 * s, "b": 0.5 * s}, coefficient=1.0) for column, s in shares.items()}
    return {
        "experts": figures({"a": 0.8, "b": 0.5}),
        **both,
        "esm_pp_route": figures(
            {"a": 0.76, "b": 0.475}, routing=routing, router="cosine", held_out={}, expert_bytes=9
        ),
        "esm_pp_oracle": figures({"a": 0.79, "b": 0.49}, expert_bytes=9),
        "truncation": figures({}, errors=errors),
    }


def bases() -> list[str]:
    return [basis for basis, _ in labels.BASES]


def test_normalised_accuracy_is_a_mean_of_ratios_for_every_seed() -> None:
    summary = summarise([one_seed(0.8), one_seed(0.9)])
    assert summary["normalized"]["experts"] == [1, 1]
    assert summary["normalized"]["esm"] == pytest.approx([0.8, 0.9])
    assert summary["tasks"] == ["a", "b"]
    assert summary["accuracy"]["esm_pp_oracle"][0] == {"a": 0.79, "b": 0.49}
    assert summary["coefficient"]["esm"] == [1, 1]
    assert "truncation" not in summary["normalized"]
    assert summary["truncation"]["mlp.c_fc"]["svd"] == {"0.05": [0.4, 0.4]}


def test_confusion_is_a_mean_over_layers_and_seeds() -> None:
    routing = summarise([one_seed(0.8)])["routing"]["esm_pp_route"]
    assert routing["confusion"] == [pytest.approx([0.7, 0.3]), pytest.approx([0.25, 0.75])]
    assert routing["accuracy"] == pytest.approx([0.725])


def test_a_spread_names_the_extremes_of_several_seeds() -> None:
    assert spread([0.885, 0.905]) == "89.5 (88.5 to 90.5)"
    assert spread([0.885]) == "88.5"


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.71, 0.72], "holds"), ([0.69, 0.75], "holds in the mean only"), ([0.71, 0.68], "does not hold")],
)
def test_a_claim_is_judged_by_its_mean_and_by_its_seeds(values: list[float], words: str) -> None:
    summary = {"normalized": {"ours": values, "theirs": [0.7, 0.7]}}
    (verdict,) = judge(summary, [Claim("ours are better", "us", "ours", "theirs")])
    assert verdict.words == words
    assert judge(summary, [Claim("unmeasured", "us", "ours", "unknown")]) == []


def test_a_claim_of_little_loss_has_a_margin() -> None:
    summary = {"normalized": {"cheap": [0.698], "dear": [0.7]}}
    little, less = (Claim("", "", "cheap", "dear", -margin) for margin in (0.005, 0.001))
    assert [verdict.holds for verdict in judge(summary, [little, less])] == [True, False]


def test_truncation_is_judged_by_kind_of_layer() -> None:
    summary = summarise([one_seed(0.8)])
    assert truncation_holds(summary, labels.ESD) == {"mlp.c_fc": True}
    assert truncation_holds(summary, "esd own-4") == {"mlp.c_fc": False}


def report(esm: float) -> dict[str, Any]:
    found = {(seed, count): {"all": one_seed(esm)} for seed in (0, 1) for count in (4, 8)}
    return json.loads(json.dumps(make_report(found, quick=False)))  # type: ignore[no-any-return]


def test_the_json_has_normalised_accuracy_by_method_over_seeds() -> None:
    content = report(0.8)
    assert content["normalized"] == content["by_tasks"]["8"]["normalized"]
    assert content["normalized"].keys() >= set(ORDERING)
    assert all(len(values) == 2 for values in content["normalized"].values())
    assert content["seeds"] == [0, 1]
    assert {claim["claim"]: claim["holds"] for claim in content["claims"]["8"]}["esm > tsv_m"]


def test_the_page_says_where_the_order_holds_and_where_not() -> None:
    page = "\n".join(lines(report(0.8)))
    assert (
        "**8 tasks, default coefficients: the order holds** in the mean over seeds (and in every seed)"
        in page
    )
    assert "chosen on validation images" in page
    broken = "\n".join(lines(report(0.68)))
    assert "**4 tasks, default coefficients: the order does not hold.**" in broken
    assert "over TSV-M, 1 -2.00 points, in 0 of 2 seeds" in broken


def test_a_column_no_table_knows_is_on_the_page_all_the_same() -> None:
    found = {(0, 8): {"all": one_seed(0.8) | {"esm_auto": figures({"a": 0.8, "b": 0.4})}}}
    page = "\n".join(lines(make_report(found, quick=True)))
    assert "| `esm_auto` | 90.0 |" in page
    assert "Further variants" not in "\n".join(lines(report(0.8)))


def test_the_claimed_order_is_pair_by_pair() -> None:
    pairs = [(claim.left, claim.right) for claim in ordering(("a", "b", "c"))]
    assert pairs == [("a", "b"), ("b", "c")]
