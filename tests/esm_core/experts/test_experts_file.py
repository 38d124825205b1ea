"""The files of an artifact's experts: read as written, refused where they are not what esmerge writes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from routed import TASKS, Parts, architecture, make_parts
from safetensors.torch import save
from torch import Tensor

from esm_core.architecture import tower_shapes
from esm_core.errors import InputError, IntegrityError, NewerFormatError
from esm_core.experts import Experts, bias_of, dense_weights, linear_map, read_experts, small_parameters
from esm_core.experts.check import expert_bytes, map_shape, unfit_for_experts
from esm_core.layers import LAYER_KINDS
from esm_core.settings import ExpertSettings
from esm_core.storage import Location

SOURCE = Location("s3://bucket/store/artifacts/pets/v000001/experts")
BLOCK = "visual.transformer.resblocks.0"


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts(router="token_moments")


def tensors_of(experts: Experts, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The content of ``experts.safetensors``."""
    tensors = {f"delta/{name}": delta.to(dtype) for name, delta in experts.deltas.items()}
    for weight, (down, up) in experts.low_rank.items():
        tensors |= {f"low_rank/{weight}/A": down.to(dtype), f"low_rank/{weight}/B": up.to(dtype)}
    for name, own in experts.router.items():
        tensors |= {f"router/{name}/{part}": tensor for part, tensor in own.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def config_of(experts: Experts, **changes: Any) -> bytes:
    return json.dumps(experts.config.model_dump(mode="json") | changes).encode()


def assert_same(found: Any, expected: Any, dtype: torch.dtype = torch.float32) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if isinstance(tensor, Tensor):
            assert torch.equal(found[name], tensor.to(dtype).float()), name
        else:
            pairs = [dict(enumerate(v)) if isinstance(v, tuple) else v for v in (found[name], tensor)]
            assert_same(*pairs, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_experts_are_read_as_they_were_written(parts: Parts, dtype: torch.dtype) -> None:
    experts = parts.experts
    found = read_experts(config_of(experts), save(tensors_of(experts, dtype)), SOURCE)
    assert found.config == experts.config
    assert_same(found.low_rank, experts.low_rank, dtype)
    assert_same(found.deltas, experts.deltas, dtype)
    assert_same(found.router, experts.router)


def test_prototypes_are_found_by_their_layer() -> None:
    experts = make_parts(router="cosine", matrices=False, small=False).experts
    found = read_experts(config_of(experts), save(tensors_of(experts)), SOURCE)
    assert set(found.router) == set(experts.low_rank)
    assert_same(found.router, experts.router)


def test_a_newer_format_is_refused_by_the_name_of_its_file(parts: Parts) -> None:
    config = config_of(parts.experts, format=2, gates="unheard of")
    with pytest.raises(NewerFormatError, match=r"v000001/experts/routing\.json: was written in format 2"):
        read_experts(config, save(tensors_of(parts.experts)), SOURCE)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda config: config[: len(config) // 2], id="cut short"),
        pytest.param(lambda config: b"\xff\xfe", id="no text"),
        pytest.param(lambda config: b"[1, 2]", id="a list"),
        pytest.param(lambda config: b"{}", id="empty"),
        pytest.param(lambda config: config.replace(b'"format": 1', b'"format": Infinity'), id="infinite"),
        pytest.param(lambda config: config.replace(b'"format": 1', b'"format": null'), id="no format"),
        pytest.param(lambda config: config.replace(b'"rank"', b'"range"'), id="another key"),
        pytest.param(lambda config: config.replace(b'"image"', b'"token"'), id="unknown scope"),
        pytest.param(lambda config: config.replace(b"token_moments", b"token_gestures"), id="unknown router"),
    ],
)
def test_a_damaged_routing_json_is_refused_by_name(parts: Parts, spoil: Callable[[bytes], bytes]) -> None:
    config = spoil(config_of(parts.experts))
    with pytest.raises(IntegrityError, match=r"v000001/experts/routing\.json: is not a routing\.json"):
        read_experts(config, save(tensors_of(parts.experts)), SOURCE)


@pytest.mark.parametrize("key", ["gate/weight", "weight", f"low_rank/{BLOCK}.mlp.c_fc.weight/C"])
def test_a_foreign_tensor_is_refused_by_name(parts: Parts, key: str) -> None:
    tensors = tensors_of(parts.experts) | {key: torch.zeros(3)}
    with pytest.raises(IntegrityError, match=rf"experts\.safetensors: tensor '{key}'"):
        read_experts(config_of(parts.experts), save(tensors), SOURCE)


def test_half_an_expert_is_refused_by_name(parts: Parts) -> None:
    tensors = tensors_of(parts.experts)
    del tensors[f"low_rank/{BLOCK}.mlp.c_fc.weight/B"]
    with pytest.raises(IntegrityError, match=rf"experts\.safetensors: .*{BLOCK}\.mlp\.c_fc\.weight"):
        read_experts(config_of(parts.experts), save(tensors), SOURCE)


@pytest.mark.parametrize("data", [b"", b"no tensors", b"\x08" + bytes(7) + b"{}      extra"])
def test_a_file_that_holds_no_tensors_is_refused_by_name(parts: Parts, data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"experts\.safetensors"):
        read_experts(config_of(parts.experts), data, SOURCE)


# --- dense weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_dense_weights_are_the_static_ones_plus_the_expert(parts: Parts, task: str) -> None:
    experts, index = parts.experts, TASKS.index(task)
    dense = dense_weights(experts, parts.weights, task)
    assert dense.keys() == parts.weights.keys()
    for name, static in parts.weights.items():
        assert dense[name].shape == static.shape
        assert dense[name].dtype == static.dtype
        expected = static.double()
        if name in experts.low_rank:
            down, up = (part[index].double() for part in experts.low_rank[name])
            change = up @ down if name != "visual.proj" else (up @ down).mT
            expected = expected + change.reshape(static.shape)
        elif name in experts.deltas:
            expected = expected + experts.deltas[name][index].double()
        torch.testing.assert_close(dense[name].double(), expected, rtol=1e-6, atol=1e-6)


def test_dense_weights_keep_the_dtype_of_the_static_ones(parts: Parts) -> None:
    half = {name: tensor.half() for name, tensor in parts.weights.items()}
    assert {t.dtype for t in dense_weights(parts.experts, half, "dogs").values()} == {torch.float16}


def test_dense_weights_of_an_unknown_task_are_an_error(parts: Parts) -> None:
    with pytest.raises(InputError, match="no expert for task 'birds'; there are cats, dogs, maps"):
        dense_weights(parts.experts, parts.weights, "birds")


# --- names and sizes ---------------------------------------------------------------------------------


def test_the_map_of_a_weight_is_its_own_inverse_where_it_transposes(parts: Parts) -> None:
    for name in ("visual.conv1.weight", "visual.proj", f"{BLOCK}.attn.in_proj_weight"):
        weight = parts.weights[name]
        assert tuple(linear_map(name, weight).shape) == map_shape(name, tuple(weight.shape))
    projection = parts.weights["visual.proj"]
    assert torch.equal(linear_map("visual.proj", linear_map("visual.proj", projection)), projection)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (f"{BLOCK}.attn.in_proj_weight", f"{BLOCK}.attn.in_proj_bias"),
        (f"{BLOCK}.attn.out_proj.weight", f"{BLOCK}.attn.out_proj.bias"),
        (f"{BLOCK}.mlp.c_fc.weight", f"{BLOCK}.mlp.c_fc.bias"),
        (f"{BLOCK}.mlp.c_proj.weight", f"{BLOCK}.mlp.c_proj.bias"),
    ],
)
def test_the_bias_of_a_layer(parts: Parts, weight: str, bias: str) -> None:
    assert bias_of(weight) == bias
    assert bias in parts.weights


@pytest.mark.parametrize("vision", [{}, {"block_type": "custom"}, {"no_ln_pre": True}])
def test_every_parameter_of_a_plain_tower_can_have_an_expert(vision: dict[str, Any]) -> None:
    parts = make_parts(**vision)
    assert set(parts.experts.low_rank) | set(small_parameters(parts.weights)) == set(parts.weights)


def test_what_follows_an_attentional_pooler_stays_static() -> None:
    parts = make_parts(attentional_pool=True, attn_pooler_queries=4)
    assert not [name for name in small_parameters(parts.weights) if "ln_post" in name or "attn_pool" in name]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("layers", [LAYER_KINDS, ("mlp.c_fc",)])
def test_the_estimate_is_the_size_of_what_is_stored(
    dtype: str, extras: bool, layers: tuple[str, ...]
) -> None:
    parts = make_parts(layers=layers, matrices=extras, small=extras)
    chosen = ExpertSettings.model_validate(
        {"layers": layers, "rank": 3, "extras": extras, "dtype": dtype, "router": "token_gaussian"}
    )
    stored = tensors_of(parts.experts, getattr(torch, dtype))
    values = [tensor for name, tensor in stored.items() if not name.startswith("router/")]
    shapes = tower_shapes(parts.architecture)
    assert expert_bytes(chosen, shapes, len(TASKS)) == sum(tensor.nbytes for tensor in values)


@pytest.mark.parametrize(
    ("changes", "vision", "message"),
    [
        ({"rank": 16}, {}, None),
        ({"rank": 17}, {}, r"experts\.rank: 17 is above .* visual\.proj \(32, 16\); use 16 or less"),
        ({"rank": 32, "extras": False}, {}, None),
        ({"rank": 33, "extras": False}, {}, r"above the smallest side of .*; use 32 or less"),
        ({"rank": 4}, {"scaled_cosine_attn": True}, "scaled cosine attention cannot be routed"),
        ({"rank": 4}, {"block_type": "custom", "qk_norm": True}, None),
    ],
)
def test_what_does_not_fit_a_tower_is_said_with_what_would(
    changes: dict[str, Any], vision: dict[str, Any], message: str | None
) -> None:
    found = list(
        unfit_for_experts(ExpertSettings.model_validate(changes), tower_shapes(architecture(**vision)))
    )
    if message is None:
        assert found == []
    else:
        (problem,) = found
        with pytest.raises(InputError, match=message):
            raise InputError(problem)
