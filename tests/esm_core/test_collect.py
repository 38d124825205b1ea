"""Collection against inputs captured by hand from the same tower."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core import InputError, merge_updates
from esm_core.architecture import Architecture, build_tower, tower_shapes
from esm_core.collect import CollectedLayer, collect_inputs
from esm_core.layers import LAYER_KINDS, SMALL_MATRICES, LayerKind, layer_kind

WIDTH, TOKENS = 32, 5
VISION = {"image_size": 16, "layers": 2, "width": WIDTH, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}


def architecture(**vision: Any) -> Architecture:
    config = {"embed_dim": 16, "vision_cfg": VISION | vision, "text_cfg": TEXT}
    return Architecture(name="tiny", model_cfg=config, preprocess_cfg={})


def tiny_tower(
    seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32, **vision: Any
) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    own = architecture(**vision)
    tensors = {
        name: 0.2 * torch.randn(shape, generator=generator) for name, shape in tower_shapes(own).items()
    }
    return build_tower(own, tensors, device, dtype)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def weights_of(tower: nn.Module, kinds: Sequence[LayerKind]) -> list[str]:
    names = [f"visual.{name}" for name, _ in tower.named_parameters()]
    return [name for name in names if layer_kind(name) in kinds]


def collected_of(
    tower: nn.Module, batches: Iterable[Tensor], kinds: Sequence[LayerKind] = LAYER_KINDS, task: str = "cats"
) -> dict[str, CollectedLayer]:
    """The inputs of every layer of these kinds, of conv1 and of proj."""
    wanted = [*weights_of(tower, kinds), *SMALL_MATRICES]
    streams = collect_inputs(tower, batches, wanted, {}, task)
    return {weight: streams.take_inputs(weight) for weight in wanted}


def captured_by_hand(tower: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Rows of every in_proj, c_fc and c_proj input, and the outputs of every attention."""
    rows: dict[str, Tensor] = {}
    for index, block in enumerate(tower.transformer.resblocks):
        name = f"visual.transformer.resblocks.{index}"
        for module, key in (
            (block.attn, f"{name}.attn.in_proj_weight"),
            (block.mlp.c_fc, f"{name}.mlp.c_fc.weight"),
            (block.mlp.c_proj, f"{name}.mlp.c_proj.weight"),
        ):
            module.register_forward_hook(
                lambda module, args, output, key=key: rows.update({key: args[0].flatten(0, 1).double()})
            )
        block.attn.register_forward_hook(
            lambda module, args, output, key=f"{name}.attn": rows.update(
                {key: (output[0] if isinstance(output, tuple) else output).flatten(0, 1)}
            )
        )
    with torch.no_grad():
        tower(batch)
    return rows


def layers_of(collected: dict[str, CollectedLayer]) -> dict[str, CollectedLayer]:
    """Without conv1 and proj."""
    return {weight: layer for weight, layer in collected.items() if weight not in SMALL_MATRICES}


def second_moment(layer: CollectedLayer) -> Tensor:
    return layer.inputs.factor.mT @ layer.inputs.factor


def assert_same_moments(
    ours: dict[str, CollectedLayer], theirs: dict[str, CollectedLayer], tolerance: float
) -> None:
    assert set(ours) == set(theirs)
    for weight, layer in theirs.items():
        assert ours[weight].inputs.rows == layer.inputs.rows
        moment = second_moment(layer)
        assert (second_moment(ours[weight]) - moment).norm() < tolerance * moment.norm(), weight
        assert (ours[weight].mean - layer.mean).norm() < tolerance * layer.mean.norm(), weight


class PackedAttention(nn.Module):
    """Self-attention with the parameter names of ``nn.MultiheadAttention``, calling its ``out_proj``.

    Newer open_clip releases have such a module in place of PyTorch's.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = nn.Linear(attention.embed_dim, attention.embed_dim)
        self.out_proj.weight = attention.out_proj.weight
        self.out_proj.bias = attention.out_proj.bias

    def forward(self, x: Tensor, *others: Any, **options: Any) -> tuple[Tensor, None]:
        batch, tokens, width = x.shape
        packed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = packed.view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT / (width // self.num_heads) ** 0.5).softmax(-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width)), None


def with_packed_attention(tower: nn.Module) -> nn.Module:
    for block in tower.transformer.resblocks:
        block.attn = PackedAttention(block.attn)
    return tower


def test_factors_counts_and_means_are_those_of_the_inputs_captured_by_hand() -> None:
    batch = images(12)
    rows = captured_by_hand(tiny_tower(), batch)
    collected = collected_of(tiny_tower(), [batch[:7], batch[7:]], LAYER_KINDS)
    for weight, layer in collected.items():
        assert layer.inputs.factor.dtype == layer.mean.dtype == torch.float64
        if weight in layers_of(collected):
            assert layer.inputs.rows == 12 * TOKENS
        if weight in rows:
            expected = rows[weight].mT @ rows[weight]
            torch.testing.assert_close(second_moment(layer), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(layer.mean, rows[weight].mean(0), rtol=1e-4, atol=1e-5)
    assert set(collected) == set(SMALL_MATRICES) | {
        f"visual.transformer.resblocks.{index}.{layer}"
        for index in range(2)
        for layer in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    }


@pytest.mark.parametrize("packed", [False, True], ids=["nn.MultiheadAttention", "packed attention"])
def test_the_inputs_of_out_proj_give_the_attentions_own_output(packed: bool) -> None:
    # Two samples have fewer rows than the layer is wide, so the factor is the rows themselves.
    tower, other = tiny_tower(), tiny_tower()
    if packed:
        tower, other = with_packed_attention(tower), with_packed_attention(other)
    outputs = captured_by_hand(other, images(2))
    collected = collected_of(tower, [images(2)], ["attn.out_proj"])
    assert len(layers_of(collected)) == 2
    for weight, layer in layers_of(collected).items():
        out_proj = tower.get_submodule(weight.removeprefix("visual.").removesuffix(".weight"))
        expected = outputs[weight.removesuffix(".out_proj.weight")]
        torch.testing.assert_close(out_proj(layer.inputs.factor.float()), expected, rtol=1e-4, atol=1e-5)


def test_the_inputs_of_conv1_are_flattened_patches() -> None:
    tower, batch = tiny_tower(), images(3)
    layer = collected_of(tower, [batch], ["mlp.c_fc"])["visual.conv1.weight"]
    # 12 rows, fewer than the 192 values of a patch: the factor is the rows themselves.
    corners = [(y, x) for y in (0, 8) for x in (0, 8)]
    cut = [image[:, y : y + 8, x : x + 8].flatten() for image in batch for y, x in corners]
    torch.testing.assert_close(layer.inputs.factor, torch.stack(cut).double())
    torch.testing.assert_close(layer.mean, torch.stack(cut).double().mean(dim=0))
    convolved = layer.inputs.factor.float() @ tower.conv1.weight.flatten(1).mT
    torch.testing.assert_close(convolved.view(3, 4, WIDTH).mT.reshape(3, WIDTH, 2, 2), tower.conv1(batch))


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"attentional_pool": True, "attn_pooler_queries": 4},
        {"output_tokens": True},
    ],
)
def test_the_inputs_of_proj_are_the_pooled_tokens(vision: dict[str, Any]) -> None:
    tower, batch = tiny_tower(**vision), images(3)
    layer = collected_of(tower, batch.split(2), ["mlp.c_fc"])["visual.proj"]
    assert layer.inputs.rows == 3
    features = tower(batch)
    expected = features[0] if isinstance(features, tuple) else features
    torch.testing.assert_close(layer.inputs.factor.float() @ tower.proj, expected, rtol=1e-4, atol=1e-5)


def test_another_attention_module_with_the_same_parameter_names_gives_the_same_factors() -> None:
    ours = collected_of(with_packed_attention(tiny_tower()), [images(12)], LAYER_KINDS)
    assert_same_moments(ours, collected_of(tiny_tower(), [images(12)], LAYER_KINDS), 1e-5)


def test_open_clips_own_attention_block_is_collected_too() -> None:
    tower = tiny_tower(block_type="custom")
    collected = collected_of(tower, [images(2)], LAYER_KINDS)
    layers = layers_of(collected)
    assert len(layers) == 8
    assert {layer.inputs.rows for layer in layers.values()} == {2 * TOKENS}


def test_the_batch_size_does_not_matter() -> None:
    batch = images(32)
    singly = collected_of(tiny_tower(), batch.split(1), LAYER_KINDS)
    at_once = collected_of(tiny_tower(), [batch], LAYER_KINDS)
    assert_same_moments(singly, at_once, 1e-5)


def test_the_same_batches_give_the_same_bits() -> None:
    first, second = (collected_of(tiny_tower(), images(8).split(3), LAYER_KINDS) for _ in range(2))
    for weight, layer in first.items():
        assert torch.equal(layer.inputs.factor, second[weight].inputs.factor)
        assert torch.equal(layer.mean, second[weight].mean)


def test_only_the_weights_asked_for_are_collected() -> None:
    tower = tiny_tower()
    (c_fc, other), (c_proj, _) = (weights_of(tower, [kind]) for kind in ("mlp.c_fc", "mlp.c_proj"))
    streams = collect_inputs(
        tower, [images(2)], [other, c_fc], {c_proj: lambda: torch.eye(WIDTH, 4 * WIDTH)}, "cats"
    )
    assert (list(streams.inputs), list(streams.shifts)) == ([c_fc, other], [c_proj])


def test_the_factor_of_a_shift_is_that_of_the_inputs_times_the_update() -> None:
    batch, weight = images(12), "visual.transformer.resblocks.1.mlp.c_proj.weight"
    update = torch.randn(WIDTH, 4 * WIDTH, generator=torch.Generator().manual_seed(1))
    inputs = captured_by_hand(tiny_tower(), batch)[weight]
    streams = collect_inputs(tiny_tower(), [batch], [], {weight: lambda: update}, "cats")
    factor, rows = streams.take_shift(weight)
    assert (factor.shape, factor.dtype, rows) == ((WIDTH, WIDTH), torch.float64, 12 * TOKENS)
    expected = update.double() @ inputs.mT @ inputs @ update.double().mT
    torch.testing.assert_close(factor.mT @ factor, expected, rtol=1e-11, atol=1e-9)


def test_what_else_is_collected_does_not_change_a_bit() -> None:
    tower, batches = tiny_tower(), images(8).split(3)
    weight, c_proj = (weights_of(tower, [kind])[1] for kind in ("attn.in_proj", "mlp.c_proj"))
    updates = {c_proj: lambda: torch.eye(WIDTH, 4 * WIDTH)}
    alone = collect_inputs(tower, batches, [weight], updates, "cats")
    every = collect_inputs(
        tower, batches, [*weights_of(tower, LAYER_KINDS), *SMALL_MATRICES], updates, "cats"
    )
    assert torch.equal(alone.take_shift(c_proj).factor, every.take_shift(c_proj).factor)
    ours, theirs = alone.take_inputs(weight), every.take_inputs(weight)
    assert torch.equal(ours.inputs.factor, theirs.inputs.factor)
    assert torch.equal(ours.mean, theirs.mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_tower_runs_in_its_own_precision(dtype: torch.dtype) -> None:
    low = collected_of(tiny_tower(dtype=dtype), [images(12)], LAYER_KINDS)
    exact = collected_of(tiny_tower(), [images(12)], LAYER_KINDS)
    assert {layer.inputs.factor.dtype for layer in low.values()} == {torch.float64}
    assert_same_moments(low, exact, 0.1 if dtype == torch.bfloat16 else 1e-4)


def test_what_was_collected_can_be_merged_without_further_ado() -> None:
    towers = {task: tiny_tower(seed) for seed, task in enumerate(("cats", "dogs"), start=1)}
    base = dict(tiny_tower().named_parameters())
    updates = {
        task: {f"visual.{name}": (value - base[name]).detach() for name, value in tower.named_parameters()}
        for task, tower in towers.items()
    }
    inputs = {
        task: {w: c.inputs for w, c in collected_of(tower, [images(9)], LAYER_KINDS, task).items()}
        for task, tower in towers.items()
    }
    merged = merge_updates(updates, inputs)
    assert set(merged) == set(updates["cats"])
    assert all(torch.isfinite(value).all() for value in merged.values())


def test_an_activation_that_is_not_finite_is_an_error_that_names_task_and_layer() -> None:
    tower = tiny_tower()
    tower.transformer.resblocks[1].mlp.c_fc.bias.data[3] = float("nan")
    with pytest.raises(
        InputError, match=r"Task cats.*visual\.transformer\.resblocks\.1\.mlp\.c_proj\.weight"
    ):
        collected_of(tower, [images(2)], LAYER_KINDS)


def test_no_proxy_image_is_an_error() -> None:
    with pytest.raises(InputError, match="Task cats: there is no proxy image"):
        collected_of(tiny_tower(), [], LAYER_KINDS)


def test_a_tower_without_such_layers_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no visual\.conv1\.weight, visual\.proj to collect"):
        collected_of(nn.Sequential(nn.Linear(2, 2)), [])


def test_a_tower_whose_pooling_attends_across_is_refused_or_collected_rightly() -> None:
    # Its attention pooling has a query of its own, so it is no self-attention over its first argument.
    tower = tiny_tower(attentional_pool=True)
    try:
        collected = collected_of(tower, [images(2)], LAYER_KINDS)
    except InputError:
        return
    assert not [weight for weight in collected if "attn_pool" in weight]


@pytest.mark.parametrize("fails", [False, True])
def test_the_tower_is_left_as_it_was(fails: bool) -> None:
    tower = tiny_tower()
    before = dict(tower.named_parameters())
    if fails:
        with pytest.raises(RuntimeError):
            collected_of(tower, [torch.zeros(1, 4, 16, 16)], LAYER_KINDS)
    else:
        collected_of(tower, [images(1)], LAYER_KINDS)
    assert not [module for module in tower.modules() if module._forward_pre_hooks]
    after = dict(tower.named_parameters())
    assert list(after) == list(before), "the projection is back in its place"
    assert all(after[name] is parameter for name, parameter in before.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_tower_on_the_gpu_is_collected_there() -> None:
    collected = collected_of(tiny_tower(device="cuda"), [images(12)], LAYER_KINDS)
    assert {layer.inputs.factor.device.type for layer in collected.values()} == {"cuda"}
    on_cpu = {
        weight: CollectedLayer(layer.inputs._replace(factor=layer.inputs.factor.cpu()), layer.mean.cpu())
        for weight, layer in collected.items()
    }
    assert_same_moments(on_cpu, collected_of(tiny_tower(), [images(12)], LAYER_KINDS), 1e-2)
