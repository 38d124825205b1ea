from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from esm_core.model_card import accuracy_rows, confusions, model_card, normalised, routing_rows

ACCURACY = {
    "esm": {"cats": 0.9, "dogs": 0.4},
    "base": {"cats": 0.5, "dogs": 0.2},
    "experts": {"cats": 1.0, "dogs": 0.8},
    "tsv_m": {"cats": 0.8, "dogs": 0.36},
}


def manifest(accuracy: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        "inputs": {"tasks": {"cats": {}, "dogs": {}}},
        "alpha": 2.0,
        "metrics": {"accuracy": accuracy},
        "architecture": {"text_tower": "the base model's"},
    }


def test_the_table_has_a_row_per_task_the_mean_and_the_normalised_mean() -> None:
    header, rows = accuracy_rows(ACCURACY)
    assert header == ["task", "Base", "Experts", "TSV-M", "ESM"]
    assert rows == [
        ["cats", "50.0", "100.0", "80.0", "90.0"],
        ["dogs", "20.0", "80.0", "36.0", "40.0"],
        ["mean", "35.0", "90.0", "58.0", "65.0"],
        ["normalised", "37.5", "100.0", "62.5", "70.0"],
    ]


def test_a_task_whose_expert_never_hits_counts_as_zero() -> None:
    accuracy = {"experts": {"a": 0.0, "b": 0.5}, "esm": {"a": 0.3, "b": 0.5}}
    assert normalised(accuracy, ["esm"]) == pytest.approx([0.5])


def test_the_card_says_what_was_merged_and_how_to_use_it() -> None:
    card = model_card(manifest(ACCURACY), "pets")
    _, front, body = card.split("---\n", 2)
    content = yaml.safe_load(front)
    assert content["library_name"] == "open_clip"
    assert content["tags"] == ["model-merging", "clip", "esmerge"]
    assert "base_model" not in content
    assert "# pets" in body
    assert "2 fine-tunes (cats, dogs)" in body
    assert "alpha 2.0" in body
    assert "local-dir:" in body
    assert 'esm_core.load(store, "pets")' in body
    lines = [line for line in body.splitlines() if line.startswith("|")]
    assert lines[0] == "| task | Base | Experts | TSV-M | ESM |"
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    assert lines[-1] == "| normalised | 37.5 | 100.0 | 62.5 | 70.0 |"
    assert {line.count("|") for line in lines} == {6}


def test_hubs_read_the_accuracies_of_what_is_published() -> None:
    data = ModelCard(model_card(manifest(ACCURACY), "pets")).data
    assert isinstance(data, ModelCardData)
    assert data.model_name == "pets"
    assert data.metrics == ["accuracy"]
    results = data.eval_results or []
    found = {(r.dataset_name, r.metric_name, r.metric_value) for r in results}
    assert found == {("cats", "Accuracy (ESM)", 0.9), ("dogs", "Accuracy (ESM)", 0.4)}
    assert {r.task_type for r in results} == {"image-classification"}


def test_a_base_from_a_hub_cache_is_named() -> None:
    url = (
        "file:///home/me/.cache/huggingface/hub/models--laion--CLIP-ViT-B-32/snapshots/ab12/model.safetensors"
    )
    base = {"checkpoint": {"url": url, "sha256": "0" * 64}}
    content = manifest(ACCURACY)
    card = model_card({**content, "inputs": {**content["inputs"], "base": base}}, "pets")
    assert ModelCard(card).data.to_dict()["base_model"] == "laion/CLIP-ViT-B-32"
    assert f"| base | `{url}` | `{'0' * 64}` |" in card


def test_the_card_of_a_manifest_is_always_the_same() -> None:
    assert model_card(manifest(ACCURACY), "pets") == model_card(manifest(ACCURACY), "pets")


def test_a_cell_cannot_break_a_table() -> None:
    content = manifest({})
    odd = {"checkpoint": {"url": "file:///a|b\nc", "sha256": "1"}}
    card = model_card({**content, "inputs": {**content["inputs"], "base": odd}}, "pets")
    assert "| base | `file:///a\\|b c` | `1` |" in card


def test_without_accuracies_there_is_no_table() -> None:
    assert accuracy_rows({}) == (["task"], [])
    card = model_card(manifest({}), "pets")
    assert "## Accuracy" not in card
    assert "|" not in card


PER_IMAGE = {"image": {"cats": {"cats": 9, "dogs": 1}, "dogs": {"cats": 5, "dogs": 15}}}
LAYER = "visual.transformer.resblocks.{}.mlp.c_fc.weight"


def test_a_router_that_decides_once_has_one_share_per_task() -> None:
    metrics = {"routing": PER_IMAGE, "routing_accuracy": {"cats": 0.9, "dogs": 0.75}}
    header, rows = routing_rows(metrics)
    assert header == ["task", "share"]
    assert rows == [["cats", "90.0"], ["dogs", "75.0"], ["mean", "82.5"]]


def test_a_router_that_decides_in_every_layer_has_a_share_for_each() -> None:
    first, second = {"cats": {"cats": 1, "dogs": 1}}, {"cats": {"cats": 2, "dogs": 0}}
    metrics = {
        "routing": {LAYER.format(0): first, LAYER.format(1): second},
        "routing_accuracy": {"cats": 0.75},
    }
    header, rows = routing_rows(metrics)
    assert header == ["task", "mean", "0.mlp.c_fc.weight", "1.mlp.c_fc.weight"]
    assert rows == [["cats", "75.0", "50.0", "100.0"], ["mean", "75.0", "", ""]]


def test_without_routing_there_are_no_rows() -> None:
    assert routing_rows({"accuracy": ACCURACY}) == ([], [])


def test_confusions_are_named_worst_first() -> None:
    assert confusions(PER_IMAGE["image"]) == ["dogs → cats 25.0 %", "cats → dogs 10.0 %"]
    assert confusions(PER_IMAGE["image"], most=1) == ["dogs → cats 25.0 %"]
    assert confusions({"cats": {"cats": 3, "dogs": 0}}) == []


def test_the_card_of_a_version_with_experts_says_how_to_load_them() -> None:
    experts = {"router": "token_moments", "settings": {"rank": 16, "router": "auto"}}
    card = model_card({**manifest(ACCURACY), "experts": experts}, "pets")
    assert 'esm_core.load(store, "pets", experts=True)' in card
    assert "router token_moments" in card
    assert "experts=True" not in model_card(manifest(ACCURACY), "pets")
