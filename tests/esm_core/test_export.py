"""Exports compute what the oracle mode of the routed tower computes, in open_clip and in PEFT."""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import peft
import pytest
import torch
from published import TASKS, publish, published_experts
from safetensors.torch import load_file
from services import S3Server
from torch import Tensor, nn

from esm_core.artifacts import Version
from esm_core.errors import InputError, IntegrityError
from esm_core.experts import dense_weights
from esm_core.experts.version import version_experts
from esm_core.export import export_adapters, export_task
from esm_core.routing import RoutedTower, oracle
from esm_core.storage import Location

IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
CLOSE = {"rtol": 0.0, "atol": 1e-5}
# open_clip's other attention, more layers than PEFT takes by their full names, and fewer experts.
TOWERS: dict[str, dict[str, Any]] = {
    "default": {},
    "custom": {"block_type": "custom"},
    "deep": {"layers": 12},
    "layers": {"kept": "(attn|mlp)"},
    "mlp": {"kept": r"mlp\.c_fc"},
    "packed": {"kept": "in_proj_weight"},
    "scales": {"kept": r"conv1|ln_.*\.weight"},
}


@pytest.fixture(params=TOWERS)
def version(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    return published_experts(tmp_path, **TOWERS[request.param])


@pytest.fixture
def plain(tmp_path: Path) -> Version:
    return published_experts(tmp_path)


def open_clip_model(folder: Location | Path) -> Any:
    path = folder.path if isinstance(folder, Location) else folder
    return open_clip.create_model(f"local-dir:{path}").eval()


@torch.no_grad()
def encoded(model: Any) -> Tensor:
    features: Tensor = model.encode_image(IMAGES)
    return features


@torch.no_grad()
def oracle_features(version: Version, task: str) -> Tensor:
    tower = RoutedTower(open_clip_model(version.folder / "model").visual, version_experts(version))
    with oracle(tower, task):
        features: Tensor = tower(IMAGES)
    return features


def adapted(version: Version, folder: Path, **options: Any) -> Any:
    model: nn.Module = open_clip_model(version.folder / "model")
    return peft.PeftModel.from_pretrained(model, str(folder), **options).eval()


def location(path: Path) -> Location:
    return Location.parse(str(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("task", TASKS)
def test_a_dense_export_is_the_oracle_mode(version: Version, task: str, tmp_path: Path) -> None:
    export_task(version, task, location(tmp_path / "out"))
    torch.testing.assert_close(
        encoded(open_clip_model(tmp_path / "out")), oracle_features(version, task), **CLOSE
    )


def test_a_dense_export_leaves_the_text_tower(plain: Version, tmp_path: Path) -> None:
    export_task(plain, "dogs", location(tmp_path / "out"))
    static = load_file(plain.folder.path + "/model/open_clip_model.safetensors")
    dense = load_file(tmp_path / "out/open_clip_model.safetensors")
    assert dense.keys() == static.keys()
    for name, tensor in static.items():
        assert torch.equal(dense[name], tensor) != name.startswith("visual."), name


@pytest.mark.parametrize("task", TASKS)
def test_peft_computes_the_oracle_mode(version: Version, task: str, tmp_path: Path) -> None:
    export_adapters(version, location(tmp_path / "out"))
    model = adapted(version, tmp_path / "out" / task)
    expected = oracle_features(version, task)
    assert (encoded(open_clip_model(version.folder / "model")) - expected).abs().max() > 0.1
    torch.testing.assert_close(encoded(model), expected, **CLOSE)
    torch.testing.assert_close(encoded(model), expected, **CLOSE)
    low_memory = adapted(version, tmp_path / "out" / task, low_cpu_mem_usage=True)
    torch.testing.assert_close(encoded(low_memory), expected, **CLOSE)


def test_peft_merges_an_adapter_into_the_dense_export(version: Version, tmp_path: Path) -> None:
    export_adapters(version, location(tmp_path / "out"))
    static = load_file(version.folder.path + "/model/open_clip_model.safetensors")
    dense = dense_weights(version_experts(version), static, "maps")
    merged = adapted(version, tmp_path / "out/maps").merge_and_unload()
    assert merged.state_dict().keys() == dense.keys()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, dense[name], **CLOSE)


def test_peft_uses_every_tensor_of_an_adapter(version: Version, tmp_path: Path) -> None:
    export_adapters(version, location(tmp_path / "out"))
    held = load_file(tmp_path / "out/cats/adapter_model.safetensors")
    model = adapted(version, tmp_path / "out/cats")
    result = peft.set_peft_model_state_dict(model, {key: tensor + 1 for key, tensor in held.items()})
    assert not result.unexpected_keys
    names = re.compile(r"\.(lora_[AB]|modules_to_save)\.default")
    loaded = {
        names.sub(lambda found: f".{found[1]}" if found[1].startswith("lora") else "", key): tensor
        for key, tensor in model.state_dict().items()
    }
    for key, tensor in held.items():
        torch.testing.assert_close(loaded[key], tensor + 1, msg=key)


def test_peft_refuses_a_second_adapter(plain: Version, tmp_path: Path) -> None:
    export_adapters(plain, location(tmp_path / "out"))
    model = adapted(plain, tmp_path / "out/cats")
    with pytest.raises(ValueError, match="only 1 adapter with bias"):
        model.load_adapter(str(tmp_path / "out/dogs"), "dogs")


def test_the_readme_names_what_an_expert_changes(version: Version, tmp_path: Path) -> None:
    made = export_adapters(version, location(tmp_path / "out"))
    experts = version_experts(version)
    text = (tmp_path / "out/dogs/README.md").read_text()
    named = re.findall(r"(?m)^- `(visual\..+)`$", text)
    held = [*made["dogs"].low_rank, *made["dogs"].modules, *made["dogs"].whole]
    assert sorted(named) == sorted(held)
    changed = {*experts.low_rank, *experts.deltas}
    assert changed <= set(held)
    assert {name.replace("bias", "weight") for name in set(held) - changed} <= changed
    assert "Nothing: the adapter holds everything" in text


def test_an_adapter_is_not_scaled(plain: Version, tmp_path: Path) -> None:
    export_adapters(plain, location(tmp_path / "out"))
    config = json.loads((tmp_path / "out/cats/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"visual.conv1": 2}


def test_exports_are_the_same_bytes_every_time(plain: Version, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        export_adapters(plain, location(tmp_path / folder / "peft"))
        export_task(plain, "dogs", location(tmp_path / folder / "dense"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 3 * len(TASKS) + 2


def test_an_unknown_task_is_refused(plain: Version, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'birds'; there are cats, dogs, maps"):
        export_task(plain, "birds", location(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_version_without_experts_is_refused(tmp_path: Path) -> None:
    version = publish(tmp_path, {"model/open_clip_config.json": b"{}"})
    with pytest.raises(InputError, match="pets v000001 was published without experts; merge with `experts:`"):
        export_adapters(version, location(tmp_path / "out"))
    with pytest.raises(InputError, match="without experts"):
        export_task(version, "dogs", location(tmp_path / "out"))


def test_experts_that_peft_cannot_hold_are_refused(tmp_path: Path) -> None:
    version = published_experts(tmp_path, "out_proj")
    with pytest.raises(InputError, match="no matrix that PEFT can hold in low rank; use --task"):
        export_adapters(version, location(tmp_path / "out"))
    export_task(version, "dogs", location(tmp_path / "out"))


def test_a_folder_that_is_not_empty_is_refused(plain: Version, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for name in ("out", "file"):
        with pytest.raises(InputError, match=f"{name}: is not empty"):
            export_task(plain, "dogs", location(tmp_path / name))
        with pytest.raises(InputError, match=f"{name}: is not empty"):
            export_adapters(plain, location(tmp_path / name))
    assert contents(tmp_path / "out") == {"mine": b"kept"}


@pytest.mark.parametrize("name", ["experts.safetensors", "routing.json"])
def test_damaged_experts_are_refused(plain: Version, name: str, tmp_path: Path) -> None:
    path = Path(plain.folder.path) / "experts" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"{name}: is damaged"):
        export_adapters(plain, location(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.s3
def test_exports_on_s3_are_the_same_bytes(plain: Version, s3: S3Server, tmp_path: Path) -> None:
    remote = s3.bucket() / "exports"
    export_adapters(plain, location(tmp_path / "out"))
    export_adapters(plain, remote)
    written = contents(tmp_path / "out")
    assert {name: (remote / name).read_bytes() for name in remote.files()} == written
    with pytest.raises(InputError, match="exports: is not empty"):
        export_task(plain, "dogs", remote)
