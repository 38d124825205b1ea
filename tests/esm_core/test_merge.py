"""The whole static merge against an independent one: plain SVDs, written from the method notes."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core import InputError, InputFactor, MergeSettings, merge_updates
from esm_core.factor import FactorStream, compress

Problem = dict[str, dict[str, Tensor]]

BLOCK = "visual.transformer.resblocks"
IN_PROJ, OUT_PROJ = f"{BLOCK}.0.attn.in_proj_weight", f"{BLOCK}.0.attn.out_proj.weight"
C_FC, C_PROJ = f"{BLOCK}.0.mlp.c_fc.weight", f"{BLOCK}.0.mlp.c_proj.weight"
BIAS = f"{BLOCK}.0.mlp.c_fc.bias"
SHAPES = {
    f"{BLOCK}.{block}.{layer}": shape
    for block in range(3)
    for layer, shape in {
        "attn.in_proj_weight": (24, 8),
        "attn.out_proj.weight": (8, 8),
        "mlp.c_fc.weight": (32, 8),
        "mlp.c_fc.bias": (32,),
        "mlp.c_proj.weight": (8, 32),
    }.items()
} | {"visual.proj": (8, 6), "visual.class_embedding": (8,)}


def essential(weight: str) -> bool:
    return weight.endswith(("in_proj_weight", "c_fc.weight", "c_proj.weight"))


def random_problem(
    tasks: int = 3,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    rows: int = 60,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Problem, Problem]:
    """Updates and raw inputs of ``tasks`` tasks; every task and layer has a strength of its own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    updates: Problem = {}
    inputs: Problem = {}
    for index in range(tasks):
        name = f"task{index}"
        strength = {w: (1 + 0.3 * index) * (1 + 0.2 * n) for n, w in enumerate(shapes)}
        updates[name] = {w: (strength[w] * normal(*shape)).to(dtype) for w, shape in shapes.items()}
        inputs[name] = {
            w: (normal(rows, shape[1]) * torch.linspace(2, 0.5, shape[1], dtype=torch.float64)).to(dtype)
            for w, shape in shapes.items()
            if essential(w)
        }
    return updates, inputs


# The reference.


def svd_polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    keep = values > 1e-10 * values.max()
    return left[:, keep] @ right[keep], values


def scaling(norms: Tensor, on: bool, exponent: float) -> Tensor:
    return (norms / norms.mean()) ** exponent if on else torch.ones_like(norms)


def reference_layer(updates: list[Tensor], inputs: list[Tensor], how: MergeSettings) -> Tensor:
    """Steps 1 to 5 of the static merge, for one layer."""
    bases, coordinates, norms = [], [], []
    for update, rows in zip(updates, inputs, strict=True):
        _, values, right = torch.linalg.svd(rows @ update.mT, full_matrices=False)
        rank = int((values > 1e-9 * values.max()).sum())
        whole = right[:rank] @ update
        r = min(how.rank or update.shape[0] // len(updates), rank)
        eigenvalues = values[:r] ** 2 / (len(rows) - 1)
        weights = (eigenvalues / eigenvalues.mean()) ** how.eigen_exponent
        weights = weights / weights.mean()
        bases.append(right[:r].mT * weights)
        coordinates.append(weights[:, None] * whole[:r])
        norms.append(whole.norm())
    between = scaling(torch.stack(norms), how.inter_task, how.scaling_exponent)
    basis = torch.cat(bases, dim=1)
    coordinate = torch.cat([c * s for c, s in zip(coordinates, between, strict=True)])
    columns = torch.stack([column.norm() for column in coordinate.mT])
    coordinate = coordinate * scaling(columns, how.inter_dimension, how.scaling_exponent)
    (left, left_values), (right_part, right_values) = svd_polar(basis), svd_polar(coordinate)
    return (left * left_values.mean()) @ (right_part * right_values.mean())


def reference_tsv(updates: list[Tensor], rank: int | None) -> Tensor:
    parts = [torch.linalg.svd(update, full_matrices=False) for update in updates]
    r = rank or min(updates[0].shape) // len(updates)
    left = svd_polar(torch.cat([p.U[:, :r] for p in parts], dim=1))[0]
    right = svd_polar(torch.cat([p.Vh[:r] for p in parts]))[0]
    return left @ torch.diag(torch.cat([p.S[:r] for p in parts])) @ right


def reference_merge(updates: Problem, inputs: Problem, how: MergeSettings) -> dict[str, Tensor]:
    merged = {}
    for weight in next(iter(updates.values())):
        own = [updates[task][weight] for task in updates]
        if essential(weight):
            merged[weight] = reference_layer(own, [inputs[task][weight] for task in updates], how)
        elif own[0].ndim == 2:
            merged[weight] = reference_tsv(own, how.rank)
        else:
            merged[weight] = sum(own) / len(own)
    if how.inter_layer:
        for kind in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"):
            layers = [weight for weight in merged if weight.endswith(kind)]
            if not layers:
                continue
            norms = torch.stack([merged[weight].norm() for weight in layers])
            for weight, beta in zip(layers, scaling(norms, True, how.scaling_exponent), strict=True):
                merged[weight] = merged[weight] * beta
    return merged


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-8) -> None:
    assert set(ours) == set(expected)
    for weight, value in expected.items():
        error = float((ours[weight] - value).norm() / value.norm())
        assert error < tolerance, (weight, error)


ALL = [
    MergeSettings(eigen_exponent=eigen, inter_task=task, inter_dimension=dimension, inter_layer=layer)
    for eigen, task, dimension, layer in itertools.product((0, 0.15), *[(False, True)] * 3)
]


@pytest.mark.parametrize(
    "how", ALL, ids=lambda s: f"{s.eigen_exponent}-{s.inter_task:d}{s.inter_dimension:d}{s.inter_layer:d}"
)
def test_the_merge_follows_the_equations_with_every_choice_of_scalings(how: MergeSettings) -> None:
    updates, inputs = random_problem()
    assert_same(merge_updates(updates, inputs, how), reference_merge(updates, inputs, how))


@pytest.mark.parametrize("how", [MergeSettings(scaling_exponent=1.0), MergeSettings(rank=2)])
def test_the_merge_follows_the_equations_with_other_numbers(how: MergeSettings) -> None:
    updates, inputs = random_problem(tasks=4)
    assert_same(merge_updates(updates, inputs, how), reference_merge(updates, inputs, how))


def test_settings_default_to_the_published_ones() -> None:
    updates, inputs = random_problem()
    published = MergeSettings(
        eigen_exponent=0.15, scaling_exponent=2, inter_task=True, inter_dimension=True, inter_layer=True
    )
    ours, expected = merge_updates(updates, inputs), merge_updates(updates, inputs, published)
    assert all(torch.equal(ours[weight], expected[weight]) for weight in expected)


@pytest.mark.parametrize(
    "change",
    [{"inter_task": False}, {"inter_dimension": False}, {"inter_layer": False}, {"eigen_exponent": 0.0}],
    ids=lambda change: next(iter(change)),
)
def test_every_scaling_matters(change: dict[str, float]) -> None:
    updates, inputs = random_problem()
    on, off = merge_updates(updates, inputs), merge_updates(updates, inputs, MergeSettings(**change))
    for weight in (IN_PROJ, C_FC, C_PROJ):
        assert (on[weight] - off[weight]).norm() > 1e-3 * on[weight].norm(), weight


def test_biases_and_embeddings_get_the_mean_update() -> None:
    updates, inputs = random_problem()
    merged = merge_updates(updates, inputs)
    for weight in (BIAS, "visual.class_embedding"):
        mean = torch.stack([own[weight] for own in updates.values()]).mean(0)
        torch.testing.assert_close(merged[weight], mean)


# Inputs.


@settings(max_examples=8, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 99))
def test_compressed_and_raw_inputs_give_the_same_merge(cuts: list[int], seed: int) -> None:
    updates, inputs = random_problem(seed=seed)
    bounds = [0, *sorted(cuts), 60]
    compressed: dict[str, dict[str, InputFactor]] = {}
    for task, own in inputs.items():
        for weight, rows in own.items():
            stream = FactorStream(rows.shape[1])
            for start, end in itertools.pairwise(bounds):
                stream.update(rows[start:end])
            compressed.setdefault(task, {})[weight] = stream.result()[0]
    assert_same(merge_updates(updates, compressed), merge_updates(updates, inputs))


def test_inputs_may_be_raw_rows_a_factor_or_a_pair() -> None:
    updates, inputs = random_problem()
    mixed = {task: dict(own) for task, own in inputs.items()}
    mixed["task0"][C_FC] = InputFactor(compress(inputs["task0"][C_FC]), 60)
    mixed["task1"][C_FC] = (compress(inputs["task1"][C_FC]), 60)
    assert_same(merge_updates(updates, mixed), merge_updates(updates, inputs))


def test_compressed_and_raw_inputs_agree_when_the_spectrum_falls_to_the_noise_floor() -> None:
    updates, inputs = random_problem(shapes={C_FC: (32, 16)}, rows=200)
    strengths = torch.logspace(0, -7, 16, dtype=torch.float64)
    steep = {task: {C_FC: own[C_FC] * strengths} for task, own in inputs.items()}
    factors = {task: {C_FC: (compress(own[C_FC]), 200)} for task, own in steep.items()}
    assert_same(merge_updates(updates, factors), merge_updates(updates, steep), 1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(order=st.permutations(["task0", "task1", "task2", "task3"]))
def test_the_order_of_the_tasks_does_not_change_a_bit(order: list[str]) -> None:
    updates, inputs = random_problem(tasks=4)
    expected = merge_updates(updates, inputs)
    ours = merge_updates({t: updates[t] for t in order}, {t: inputs[t] for t in reversed(order)})
    assert all(torch.equal(ours[weight], expected[weight]) for weight in expected)


def test_the_order_of_the_weights_does_not_change_a_bit() -> None:
    updates, inputs = random_problem()
    expected = merge_updates(updates, inputs)
    ours = merge_updates({t: dict(reversed(own.items())) for t, own in updates.items()}, inputs)
    assert all(torch.equal(ours[weight], expected[weight]) for weight in expected)


# What the merge commutes with.


@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=st.floats(1e-4, 1e4), seed=st.integers(0, 99))
def test_the_merge_scales_with_the_updates_and_ignores_the_scale_of_the_inputs(
    scale: float, seed: int
) -> None:
    updates, inputs = random_problem(seed=seed)
    expected = merge_updates(updates, inputs)
    larger = {t: {w: scale * u for w, u in own.items()} for t, own in updates.items()}
    assert_same(merge_updates(larger, inputs), {w: scale * m for w, m in expected.items()})
    louder = {t: {w: scale * x for w, x in own.items()} for t, own in inputs.items()}
    assert_same(merge_updates(updates, louder), expected)


def test_the_merge_rotates_with_the_outputs() -> None:
    updates, inputs = random_problem(shapes={C_FC: (32, 8)})
    square = torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rotation = torch.linalg.qr(square).Q
    rotated = {task: {C_FC: rotation @ own[C_FC]} for task, own in updates.items()}
    assert_same(merge_updates(rotated, inputs), {C_FC: rotation @ merge_updates(updates, inputs)[C_FC]})


def test_the_merge_follows_a_permutation_of_the_inputs() -> None:
    updates, inputs = random_problem(shapes={C_FC: (32, 8)})
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    permuted = merge_updates(
        {task: {C_FC: own[C_FC][:, order]} for task, own in updates.items()},
        {task: {C_FC: own[C_FC][:, order]} for task, own in inputs.items()},
    )
    assert_same(permuted, {C_FC: merge_updates(updates, inputs)[C_FC][:, order]})


# Rank.


@pytest.mark.parametrize("case", ["few rows", "rank-deficient inputs", "low-rank updates"])
def test_where_the_rank_of_the_shift_is_short_nothing_is_padded(case: str) -> None:
    # d_out / T is 10, the shifts have rank 3.
    updates, inputs = random_problem(shapes={C_FC: (32, 16)}, rows=3 if case == "few rows" else 50)
    generator = torch.Generator().manual_seed(9)
    for index, task in enumerate(updates):
        thin = torch.randn(3, 16, dtype=torch.float64, generator=generator)
        if case == "rank-deficient inputs":
            inputs[task][C_FC] = inputs[task][C_FC][:, :3] @ thin
        if case == "low-rank updates":
            updates[task][C_FC] = (1 + index) * updates[task][C_FC][:, :3] @ thin
    merged = merge_updates(updates, inputs)
    assert_same(merged, reference_merge(updates, inputs, MergeSettings()))
    assert torch.linalg.matrix_rank(merged[C_FC]) == 9

    shifts = torch.cat([inputs[task][C_FC] @ updates[task][C_FC].mT for task in updates])
    outputs = torch.linalg.svd(shifts, full_matrices=False).Vh[:9]
    outside = merged[C_FC] - outputs.mT @ outputs @ merged[C_FC]
    assert outside.norm() < 1e-10 * merged[C_FC].norm()

    noisy = {
        task: {C_FC: own[C_FC] * (1 + 1e-13 * torch.randn(own[C_FC].shape, generator=generator).double())}
        for task, own in inputs.items()
    }
    assert_same(merge_updates(updates, noisy), merged, 1e-6)


def test_more_tasks_than_outputs_still_merge() -> None:
    updates, inputs = random_problem(tasks=6, shapes={C_PROJ: (4, 8), IN_PROJ: (12, 4)})
    assert_same(
        merge_updates(updates, inputs, MergeSettings(rank=1)),
        reference_merge(updates, inputs, MergeSettings(rank=1)),
    )
    assert torch.isfinite(merge_updates(updates, inputs)[C_PROJ]).all()


@pytest.mark.parametrize("still", ["update", "inputs"])
def test_a_task_that_does_not_move_a_layer_adds_nothing_to_it(still: str) -> None:
    updates, inputs = random_problem(shapes={C_FC: (32, 8)})
    (updates if still == "update" else inputs)["task1"][C_FC].zero_()
    plain = MergeSettings(rank=5, inter_task=False)
    without = merge_updates({t: u for t, u in updates.items() if t != "task1"}, inputs, plain)
    assert_same(merge_updates(updates, inputs, plain), without)
    assert torch.isfinite(merge_updates(updates, inputs)[C_FC]).all()


def test_updates_that_are_all_zero_merge_to_zero() -> None:
    updates, inputs = random_problem()
    still = {task: {w: torch.zeros_like(u) for w, u in own.items()} for task, own in updates.items()}
    assert not any(m.any() for m in merge_updates(still, inputs).values())


# Dtypes and devices.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_result_has_the_dtype_of_the_updates_and_is_computed_in_float64(dtype: torch.dtype) -> None:
    updates, inputs = random_problem(dtype=dtype)
    merged = merge_updates(updates, inputs)
    exact = merge_updates(
        {t: {w: u.double() for w, u in own.items()} for t, own in updates.items()},
        {t: {w: x.double() for w, x in own.items()} for t, own in inputs.items()},
    )
    assert {m.dtype for m in merged.values()} == {dtype}
    assert all(torch.equal(merged[weight], exact[weight].to(dtype)) for weight in exact)


def test_the_arguments_are_not_changed() -> None:
    updates, inputs = random_problem()
    merge_updates(updates, inputs)
    same_updates, same_inputs = random_problem()
    for ours, same in ((updates, same_updates), (inputs, same_inputs)):
        assert all(torch.equal(ours[t][w], same[t][w]) for t in same for w in same[t])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_merge_on_the_gpu_equals_one_on_the_cpu() -> None:
    updates, inputs = random_problem()
    merged = merge_updates(
        {t: {w: u.cuda() for w, u in own.items()} for t, own in updates.items()},
        {t: {w: x.cuda() for w, x in own.items()} for t, own in inputs.items()},
    )
    assert {m.device.type for m in merged.values()} == {"cuda"}
    assert_same({w: m.cpu() for w, m in merged.items()}, merge_updates(updates, inputs))


# Wrong arguments.


def test_one_task_is_not_a_merge() -> None:
    updates, inputs = random_problem(tasks=1)
    with pytest.raises(InputError, match="at least two tasks, not 1"):
        merge_updates(updates, inputs)
    with pytest.raises(InputError, match="not 0"):
        merge_updates({}, {})


def test_every_problem_of_the_arguments_is_reported_at_once() -> None:
    updates, inputs = random_problem()
    del inputs["task0"][C_FC]
    del inputs["task1"]
    updates["task2"][IN_PROJ] = updates["task2"][IN_PROJ].mT
    with pytest.raises(InputError) as caught:
        merge_updates(updates, inputs)
    problems = caught.value.problems
    assert sum("Task task0: no inputs for" in p and C_FC in p for p in problems) == 1
    assert sum("Task task1: no inputs for" in p for p in problems) == 9
    assert (
        sum("Task task2" in p and IN_PROJ in p and "(8, 24)" in p and "(24, 8)" in p for p in problems) == 1
    )
    assert len(problems) == 11


def test_tasks_with_other_weights_are_refused() -> None:
    updates, inputs = random_problem()
    del updates["task1"][BIAS]
    updates["task2"]["visual.extra"] = torch.zeros(2)
    with pytest.raises(InputError) as caught:
        merge_updates(updates, inputs)
    assert BIAS in str(caught.value)
    assert "visual.extra" in str(caught.value)


@pytest.mark.parametrize("rows", [torch.zeros(10, 7), torch.zeros(8), torch.zeros(2, 5, 8)])
def test_inputs_of_another_width_are_refused(rows: Tensor) -> None:
    updates, inputs = random_problem()
    inputs["task1"][C_FC] = rows
    with pytest.raises(InputError, match=r"Task task1: inputs of .*c_fc.weight have shape"):
        merge_updates(updates, inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused(value: float) -> None:
    updates, inputs = random_problem()
    inputs["task1"][C_FC][3, 2] = value
    with pytest.raises(InputError, match=r"Task task1: inputs of .*c_fc.weight hold NaN or Inf"):
        merge_updates(updates, inputs)


@pytest.mark.parametrize("weight", [C_FC, OUT_PROJ, BIAS])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_updates_that_are_not_finite_are_refused(weight: str, value: float) -> None:
    updates, inputs = random_problem()
    updates["task1"][weight].view(-1)[3] = value
    with pytest.raises(InputError, match=f"task1.*{weight}"):
        merge_updates(updates, inputs)
