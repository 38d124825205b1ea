"""A routed tower computes for every image of a batch what its expert's dense tower computes for it alone."""

import copy
import functools
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from routed import PUBLISHED_LAYERS, TASKS, Parts, images_of, make_parts, mixed_images, relative
from torch import Tensor, nn

from esm_core import InputError
from esm_core.routing import IMAGE, RoutedTower, base, oracle, record, route, routed_tower

CLOSE = 1e-5

TOWERS: dict[str, dict[str, Any]] = {
    "default": {},
    "custom attention": {"block_type": "custom"},
    "qk_norm": {"qk_norm": True},
    "scale_heads": {"scale_heads": True},
    "scale_attn_inner": {"scale_attn_inner": True},
    "scale_attn": {"scale_attn": True},
    "scale_fc": {"scale_fc": True},
    "all scales": {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True},
    "layer scale": {"ls_init_value": 0.1},
    "no ln_pre": {"no_ln_pre": True},
    "ln_post after pooling": {"final_ln_after_pool": True},
    "average pooling": {"pool_type": "avg"},
    "average pooling, ln_post after it": {"pool_type": "avg", "final_ln_after_pool": True},
    "attention pooling": {"attentional_pool": True, "attn_pooler_queries": 4},
    "no pooling": {"pool_type": "none"},
    "no pooling, ln_post after it": {"pool_type": "none", "final_ln_after_pool": True},
    "QuickGELU": {"quick_gelu": True},
    "other epsilon": {"norm_kwargs": {"eps": 0.1}},
    "wide images, wide heads": {"image_size": [16, 32], "head_width": 32},
}
SETS: dict[str, dict[str, Any]] = {
    "two layers": {"layers": PUBLISHED_LAYERS, "matrices": False, "small": False},
    "four layers": {"matrices": False, "small": False},
    "four layers and extras": {},
    "small parameters only": {"layers": (), "matrices": False},
    "matrices only": {"layers": (), "small": False},
    "one layer": {"layers": ("mlp.c_proj",), "matrices": False, "small": False},
}
MODES = ("route", "oracle", "base")


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture
def tower(parts: Parts) -> RoutedTower:
    return parts.routed()


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    found: Tensor = model(images)
    return found


def in_mode(model: nn.Module, mode: str) -> Any:
    return {"route": route, "base": base}[mode](model) if mode != "oracle" else oracle(model, "dogs")


def decided(tower: RoutedTower, images: Tensor) -> list[int]:
    with record(tower) as found:
        features(tower, images)
    return found.decisions[IMAGE].tolist()


# --- the dense oracle --------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", TOWERS.values(), ids=TOWERS)
def test_every_image_gets_what_its_experts_dense_tower_gives_it_alone(vision: dict[str, Any]) -> None:
    parts = make_parts(**vision)
    tower = parts.routed()
    images, tasks = mixed_images(size=tower.image_size)
    assert decided(tower, images) == tasks, "these images are told apart with ease"
    assert relative(features(tower, images), parts.dense_features(images, tasks)) < CLOSE
    assert relative(features(parts.static(), images), parts.dense_features(images, tasks)) > 0.1


@pytest.mark.parametrize("chosen", SETS.values(), ids=SETS)
def test_any_set_of_experts_equals_its_dense_towers(chosen: dict[str, Any]) -> None:
    parts = make_parts(**chosen)
    images, tasks = mixed_images()
    assert relative(features(parts.routed(), images), parts.dense_features(images, tasks)) < CLOSE


@pytest.mark.parametrize("vision", [{}, {"block_type": "custom"}], ids=["default", "custom"])
def test_the_published_router_decides_in_every_layer(vision: dict[str, Any]) -> None:
    parts = make_parts(layers=PUBLISHED_LAYERS, matrices=False, small=False, router="cosine", **vision)
    tower, (images, _) = parts.routed(), mixed_images()
    with record(tower) as found:
        routed = features(tower, images)
    assert set(found.decisions) == set(parts.experts.low_rank)
    assert len({tuple(chosen.tolist()) for chosen in found.decisions.values()}) > 1
    dense = {task: parts.dense(task).state_dict() for task in TASKS}
    for row, image in enumerate(images):
        # A plain tower whose layers each hold the dense weight of the task that was chosen there.
        plain = parts.static()
        chosen = {weight: int(rows[row]) for weight, rows in found.decisions.items()}
        state = {w.removeprefix("visual."): task for w, task in chosen.items()}
        plain.load_state_dict({w: dense[TASKS[t]][w] for w, t in state.items()}, strict=False)
        inputs = layer_inputs(plain)
        assert relative(routed[row : row + 1], features(plain, image[None])) < CLOSE
        for weight, tokens in inputs.items():
            prototypes = parts.experts.router[weight]["prototypes"]
            cosine = torch.cosine_similarity(tokens.mean(dim=1), prototypes)
            torch.testing.assert_close(found.scores[weight][row], cosine, rtol=1e-4, atol=1e-5)


def layer_inputs(tower: Any) -> dict[str, Tensor]:
    """Filled with the inputs of every in_proj and c_fc when the plain tower runs."""
    inputs: dict[str, Tensor] = {}
    for index, block in enumerate(tower.transformer.resblocks):
        name = f"visual.transformer.resblocks.{index}"
        for module, key in (
            (block.attn, f"{name}.attn.in_proj_weight"),
            (block.mlp.c_fc, f"{name}.mlp.c_fc.weight"),
        ):
            module.register_forward_pre_hook(lambda _, args, key=key: inputs.update({key: args[0]}))
    return inputs


# --- a sample and its batch --------------------------------------------------------------------------


@pytest.mark.parametrize("router", ["token_gaussian", "token_moments", "cosine"])
def test_an_image_alone_gives_what_it_gives_in_a_batch(router: str) -> None:
    extras = router != "cosine"
    tower = make_parts(router=router, matrices=extras, small=extras).routed()
    images, _ = mixed_images()
    together = features(tower, images)
    alone = torch.cat([features(tower, image[None]) for image in images])
    assert relative(alone, together) < CLOSE


@functools.cache
def shared_tower() -> RoutedTower:
    return make_parts().routed()


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.integers(0, 11), min_size=1, max_size=16))
def test_no_image_feels_its_neighbours(order: list[int]) -> None:
    tower, (images, _) = shared_tower(), mixed_images()
    assert relative(features(tower, images[order]), features(tower, images)[order]) < CLOSE


def test_an_empty_batch_gives_no_features(tower: RoutedTower) -> None:
    assert features(tower, torch.zeros(0, 3, 16, 16)).shape == (0, 16)


# --- without experts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"size": 0.0}, SETS["small parameters only"] | {"small": False}])
@pytest.mark.parametrize("mode", MODES)
def test_without_experts_or_with_zeros_it_is_the_static_tower_bit_for_bit(
    options: dict[str, Any], mode: str
) -> None:
    parts = make_parts(**options)
    tower, (images, _) = parts.routed(), mixed_images()
    with in_mode(tower, mode):
        assert torch.equal(features(tower, images), features(parts.static(), images))


@pytest.mark.parametrize("vision", TOWERS.values(), ids=TOWERS)
def test_base_mode_is_the_static_tower_bit_for_bit(vision: dict[str, Any]) -> None:
    parts = make_parts(**vision)
    images = torch.zeros(2, 3, *parts.static().image_size) + 0.5
    tower = parts.routed()
    with base(tower):
        assert torch.equal(features(tower, images), features(parts.static(), images))


def test_experts_leave_the_static_weights_alone(parts: Parts) -> None:
    static = parts.static()
    before = {name: tensor.clone() for name, tensor in static.state_dict().items()}
    features(RoutedTower(static, parts.experts), mixed_images()[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in static.state_dict().items())


def test_a_static_tower_of_mixed_precision_stays_as_it_is(parts: Parts) -> None:
    static = parts.static()
    static.ln_post.to(torch.float64)
    tower = RoutedTower(static, parts.experts)
    assert tower.static.ln_post.weight.dtype == torch.float64
    assert tower.conv1.down.dtype == static.conv1.weight.dtype == torch.float32


# --- modes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_oracle_takes_the_expert_of_one_task_for_all_images(
    parts: Parts, tower: RoutedTower, task: str
) -> None:
    images, _ = mixed_images()
    with oracle(tower, task):
        found = features(tower, images)
    expected = parts.dense_features(images, [TASKS.index(task)] * len(images))
    assert relative(found, expected) < CLOSE


def test_oracle_takes_one_task_per_image(parts: Parts, tower: RoutedTower) -> None:
    images, chosen = images_of(0, 5), [2, 0, 0, 1, 2]
    with oracle(tower, [TASKS[task] for task in chosen]):
        assert relative(features(tower, images), parts.dense_features(images, chosen)) < CLOSE


@pytest.mark.parametrize("router", ["token_moments", "cosine"])
def test_oracle_does_not_ask_the_router(router: str) -> None:
    extras = router != "cosine"
    tower = make_parts(router=router, matrices=extras, small=extras).routed()
    with record(tower) as found, oracle(tower, "cats"):
        features(tower, images_of(0, 2))
    assert found.scores == {}


def test_an_unknown_task_is_an_error_that_names_those_there_are(tower: RoutedTower) -> None:
    message = r"no expert for task birds; there are cats, dogs, maps"
    with pytest.raises(InputError, match=message), oracle(tower, ["cats", "birds"]):
        pass
    assert tower.mode.kind == "route"


@pytest.mark.parametrize("names", [["cats", "dogs"], []], ids=["two", "none"])
def test_another_number_of_tasks_than_images_is_an_error(tower: RoutedTower, names: list[str]) -> None:
    with oracle(tower, names), pytest.raises(InputError, match=f"{len(names)} tasks for 3 images"):
        features(tower, images_of(0, 3))


def test_modes_nest_and_end_with_their_block_even_by_an_exception(tower: RoutedTower) -> None:
    images, _ = mixed_images()
    routed = features(tower, images)
    with base(tower):
        static = features(tower, images)
        with oracle(tower, "maps"):
            maps = features(tower, images)
            with route(tower):
                assert torch.equal(features(tower, images), routed)
            with pytest.raises(ZeroDivisionError), base(tower):
                raise ZeroDivisionError
            assert torch.equal(features(tower, images), maps)
        assert torch.equal(features(tower, images), static)
    assert torch.equal(features(tower, images), routed)


def test_a_model_without_experts_has_no_modes(parts: Parts) -> None:
    with pytest.raises(InputError, match="experts=True"):
        routed_tower(parts.static())


def test_scaled_cosine_attention_is_refused(parts: Parts) -> None:
    static = parts.static()
    static.transformer.resblocks[1].attn.logit_scale = nn.Parameter(torch.ones(2, 1, 1))
    with pytest.raises(InputError, match=r"resblocks\.1: scaled cosine attention cannot be routed"):
        RoutedTower(static, parts.experts)


# --- records -----------------------------------------------------------------------------------------


def test_a_record_holds_scores_and_decisions_of_all_batches_in_order(tower: RoutedTower) -> None:
    images, tasks = mixed_images()
    with record(tower) as found:
        for batch in images.split(5):
            features(tower, batch)
    assert found.tasks == TASKS
    assert set(found.scores) == {IMAGE}
    assert found.scores[IMAGE].shape == (12, 3)
    assert found.decisions[IMAGE].tolist() == tasks
    features(tower, images)
    assert found.scores[IMAGE].shape == (12, 3), "nothing is recorded after the block"


def test_the_record_of_an_inner_block_is_its_own(tower: RoutedTower) -> None:
    with record(tower) as outer:
        features(tower, images_of(0, 1))
        with record(tower) as inner:
            features(tower, images_of(1, 2))
        features(tower, images_of(2, 3))
    assert (len(outer.scores[IMAGE]), len(inner.scores[IMAGE])) == (4, 2)


# --- precision, compilation, devices, threads --------------------------------------------------------


@pytest.mark.parametrize("router", ["token_gaussian", "token_moments", "cosine"])
def test_inference_mode_gives_the_same(router: str) -> None:
    extras = router != "cosine"
    tower, (images, _) = make_parts(router=router, matrices=extras, small=extras).routed(), mixed_images()
    with torch.inference_mode():
        assert torch.equal(tower(images), features(tower, images))


def test_autocast_stays_close_and_decides_the_same(tower: RoutedTower) -> None:
    images, tasks = mixed_images()
    exact = features(tower, images)
    with torch.autocast("cpu", dtype=torch.bfloat16), record(tower) as found:
        low = features(tower, images)
    assert found.decisions[IMAGE].tolist() == tasks
    assert found.scores[IMAGE].dtype == torch.float32
    assert relative(low, exact) < 0.05


@pytest.mark.parametrize("router", ["token_gaussian", "token_moments"])
def test_autocast_leaves_the_routers_arithmetic_in_float32(router: str) -> None:
    tower, tokens = make_parts(router=router).routed(), torch.randn(3, 5, 32)
    with torch.no_grad():
        exact = tower._score("", tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(tower._score("", tokens), exact)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("router", "backend"), [("token_gaussian", "eager"), ("token_moments", "aot_eager"), ("cosine", "eager")]
)
def test_it_compiles_as_one_graph(router: str, backend: str) -> None:
    extras = router != "cosine"
    tower, (images, _) = make_parts(router=router, matrices=extras, small=extras).routed(), mixed_images()
    torch._dynamo.reset()
    compiled: Any = torch.compile(tower, backend=backend, fullgraph=True)
    for mode in MODES:
        with in_mode(tower, mode):
            assert relative(features(compiled, images), features(tower, images)) < CLOSE, mode
    with oracle(tower, ["cats", "dogs", "maps"]):
        assert relative(features(compiled, images[:3]), features(tower, images[:3])) < CLOSE


@pytest.mark.parametrize("router", ["token_gaussian", "token_moments", "cosine"])
def test_float64_moves_the_whole_tower(router: str) -> None:
    extras = router != "cosine"
    parts = make_parts(router=router, matrices=extras, small=extras)
    images, tasks = mixed_images()
    tower = parts.routed().to(torch.float64)
    with record(tower) as found:
        exact = features(tower, images.double())
    assert exact.dtype == torch.float64
    assert relative(features(parts.routed(), images), exact) < CLOSE
    if extras:
        assert found.decisions[IMAGE].tolist() == tasks
        assert relative(exact, parts.dense_features(images, tasks, torch.float64)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tower_in_half_precision_keeps_its_router_in_float32(parts: Parts, dtype: torch.dtype) -> None:
    images, tasks = mixed_images()
    tower = parts.routed().to(dtype)
    assert {buffer.dtype for buffer in tower.scorers.buffers()} == {torch.float32}
    with record(tower) as found:
        low = features(tower, images.to(dtype))
    assert low.dtype == dtype
    assert found.decisions[IMAGE].tolist() == tasks
    assert relative(low, features(parts.routed(), images)) < 0.1


def test_a_tower_in_float64_is_built_in_float64(parts: Parts) -> None:
    images, tasks = mixed_images()
    found = features(parts.routed(torch.float64), images.double())
    assert relative(found, parts.dense_features(images, tasks, torch.float64)) < 1e-6


def test_a_copy_is_a_tower_of_its_own(tower: RoutedTower) -> None:
    images, _ = mixed_images()
    copied = copy.deepcopy(tower)
    assert torch.equal(features(copied, images), features(tower, images))
    with base(copied):
        assert not torch.equal(features(copied, images), features(tower, images))
    for buffer in copied.buffers():
        buffer.zero_()
    assert features(tower, images).isfinite().all()


def test_threads_with_different_batches_do_not_mix(tower: RoutedTower) -> None:
    batches = [images_of(task, 3 + task, seed=2) for task in (0, 1, 2, 1)]
    alone = [features(tower, batch) for batch in batches]
    differing: list[int] = []
    barrier = threading.Barrier(len(batches))

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(20):
            if not torch.equal(features(tower, batches[number]), alone[number]):
                differing.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("router", ["token_gaussian", "token_moments", "cosine"])
def test_the_gpu_gives_what_the_cpu_gives(router: str, mode: str) -> None:
    extras = router != "cosine"
    parts = make_parts(router=router, matrices=extras, small=extras)
    here, there = parts.routed(), parts.routed(device="cuda")
    moved = parts.routed().to("cuda")
    images, _ = mixed_images()
    with in_mode(here, mode), in_mode(there, mode), in_mode(moved, mode):
        expected = features(here, images)
        for tower in (there, moved):
            assert relative(features(tower, images.cuda()).cpu(), expected) < 1e-3


@gpu
@pytest.mark.gpu
def test_autocast_on_the_gpu_decides_the_same(parts: Parts) -> None:
    tower, (images, tasks) = parts.routed(device="cuda"), mixed_images()
    with torch.autocast("cuda", dtype=torch.bfloat16), record(tower) as found:
        low = features(tower, images.cuda())
    assert found.decisions[IMAGE].tolist() == tasks
    assert relative(low.cpu(), features(parts.routed(), images)) < 0.05
