import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.factor import FactorStream, InputFactor, compress, pack, unpack

ROWS = torch.randn(1300, 6, generator=torch.Generator().manual_seed(0))


def stream(*batches: Tensor) -> tuple[InputFactor, Tensor]:
    own = FactorStream(batches[0].shape[-1])
    for batch in batches:
        own.update(batch)
    return own.result()


def second_moment(rows: Tensor) -> Tensor:
    return rows.double().mT @ rows.double()


def test_the_factor_keeps_the_second_moment_the_row_count_and_the_mean() -> None:
    (factor, rows), mean = stream(ROWS)
    assert (factor.shape, factor.dtype, rows) == ((6, 6), torch.float64, 1300)
    torch.testing.assert_close(second_moment(factor), second_moment(ROWS), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(mean, ROWS.double().mean(0), rtol=1e-12, atol=1e-14)


def test_few_rows_are_kept_as_they_are() -> None:
    (factor, rows), _ = stream(ROWS[:4])
    assert torch.equal(factor, ROWS[:4].double())
    assert rows == 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 1300), max_size=12))
def test_the_size_of_the_batches_does_not_change_a_bit(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 1300]
    batches = [ROWS[a:b] for a, b in itertools.pairwise(bounds)]
    (factor, rows), mean = stream(*batches)
    (whole, whole_rows), whole_mean = stream(ROWS)
    assert torch.equal(factor, whole)
    assert torch.equal(mean, whole_mean)
    assert rows == whole_rows


def test_one_row_at_a_time_gives_the_same_bits_as_all_at_once() -> None:
    (factor, _), mean = stream(*ROWS.split(1))
    (whole, _), whole_mean = stream(ROWS)
    assert torch.equal(factor, whole)
    assert torch.equal(mean, whole_mean)


def test_tokens_of_a_batch_of_samples_are_rows() -> None:
    (factor, rows), _ = stream(ROWS.reshape(26, 50, 6))
    assert rows == 1300
    assert torch.equal(factor, stream(ROWS)[0].factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_inputs_of_any_precision_are_compressed_in_float64(dtype: torch.dtype) -> None:
    low = ROWS.to(dtype)
    (factor, _), mean = stream(low)
    assert factor.dtype == mean.dtype == torch.float64
    torch.testing.assert_close(second_moment(factor), second_moment(low), rtol=1e-12, atol=1e-9)


def test_a_buffer_that_the_caller_reuses_is_copied() -> None:
    buffer = ROWS[:10].double().clone()
    own = FactorStream(6)
    own.update(buffer)
    buffer.zero_()
    assert torch.equal(own.result()[0].factor, compress(ROWS[:10].double()))


def test_a_width_above_the_block_of_a_small_layer_works_too() -> None:
    rows = torch.randn(700, 600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (factor, count), _ = stream(*rows.split(37))
    assert (factor.shape, count) == ((600, 600), 700)
    torch.testing.assert_close(second_moment(factor), second_moment(rows), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("rows", [599, 600, 601, 1199, 1200, 1201, 1800, 2500])
def test_rows_around_whole_widths_and_blocks_are_compressed_where_they_exceed_the_width(rows: int) -> None:
    inputs = torch.randn(rows, 600, generator=torch.Generator().manual_seed(1))
    (factor, count), _ = stream(*inputs.split(700))
    assert count == rows
    if rows <= 600:
        assert torch.equal(factor, inputs.double())
    else:
        assert factor.shape == (600, 600)
        assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(second_moment(factor), second_moment(inputs), rtol=1e-11, atol=1e-9)


def test_rows_wait_in_their_own_dtype_and_triangles_packed() -> None:
    own = FactorStream(600)
    own.update(torch.zeros(1799, 600))
    assert held_by(own) == 4 * 1799 * 600
    own.update(torch.zeros(1, 600))
    assert held_by(own) <= 8 * (600 * 601 // 2 + 600)


def held_by(stream: FactorStream) -> int:
    """Bytes of all tensors that a stream holds."""
    held = [v for v in vars(stream).values() if isinstance(v, Tensor)]
    waiting = [rows for v in vars(stream).values() if isinstance(v, list) for rows in v]
    return sum(t.untyped_storage().nbytes() for t in [*held, *waiting])


@pytest.mark.parametrize("side", [1, 2, 7])
def test_a_packed_triangle_comes_back_bit_for_bit(side: int) -> None:
    triangle = torch.randn(side, side, dtype=torch.float64).triu_()
    packed = pack(triangle)
    assert packed.shape == (side * (side + 1) // 2,)
    assert torch.equal(unpack(packed), triangle)


def test_what_is_no_triangle_cannot_be_unpacked() -> None:
    with pytest.raises(ValueError, match="5 values are no triangle"):
        unpack(torch.zeros(5))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), width=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 999))
def test_compress_keeps_the_second_moment_of_any_matrix(rows: int, width: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    inputs = left @ torch.randn(rank, width, generator=generator, dtype=torch.float64)
    factor = compress(inputs)
    assert factor.shape == (min(rows, width), width)
    scale = float(second_moment(inputs).norm())
    torch.testing.assert_close(
        second_moment(factor), second_moment(inputs), rtol=0, atol=1e-13 * scale + 1e-300
    )


def test_a_stream_without_inputs_has_no_result() -> None:
    with pytest.raises(ValueError, match="no inputs"):
        FactorStream(3).result()
    own = FactorStream(3)
    own.update(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="no inputs"):
        own.result()


def test_memory_does_not_grow_with_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(inputs: Tensor) -> Tensor:
        sizes.append(inputs.shape[0])
        return compress(inputs)

    monkeypatch.setattr("esm_core.factor.compress", watched)
    stream(*[ROWS] * 20)
    assert len(sizes) > 20
    assert max(sizes) <= 600
