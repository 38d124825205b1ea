"""What every merge method does, whatever it computes."""

from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm_core.methods import Baseline, as_baseline

Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = ((), (7,), (8, 6), (6, 8), (9, 9), (1, 5), (4, 3, 2, 2))
"""Of a tower: scales, biases and norms, matrices of either orientation, convolutions."""

_any_shape = st.sampled_from(SHAPES) | st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple)
_some = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.differing_executors]
)


class OneAtATime(Sequence[Tensor]):
    """Updates that are made when asked for, as a merge reads them: ``len`` and an index, no more."""

    def __init__(self, updates: Sequence[Tensor]) -> None:
        self._updates = updates

    def __len__(self) -> int:
        return len(self._updates)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        if not isinstance(index, int) or not 0 <= index < len(self):
            raise IndexError(index)
        return self._updates[index].clone()


def random_updates(shape: Shape, count: int = 3, seed: int = 0) -> list[Tensor]:
    """``count`` updates of one shape, float64, standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


class MergeMethodTests:
    """Subclass it with the module of the method::

        class TestTies(MergeMethodTests):
            module = ties

    Attributes
    ----------
    module : module
        With ``TITLE``, ``COEFFICIENT`` and ``merge_weight``.
    symmetric : bool
        Whether the order of the tasks makes no difference but for rounding. esmerge gives them sorted by
        name, so a method may depend on it, but has to say so.
    homogeneous : bool
        Whether updates of twice the size give a merge of twice the size.
    """

    module: ClassVar[ModuleType]
    symmetric: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    @property
    def method(self) -> Baseline:
        return as_baseline(self.module)

    def merge(self, updates: Sequence[Tensor]) -> Tensor:
        return self.method.merge_weight(OneAtATime(updates))

    @_some
    @given(shape=_any_shape, count=st.integers(2, 5), seed=st.integers(0, 2**31))
    @example(shape=(8, 6), count=2, seed=0)
    @example(shape=(), count=3, seed=0)
    def test_a_weight_of_any_shape_keeps_it_and_is_finite_float64(
        self, shape: Shape, count: int, seed: int
    ) -> None:
        merged = self.merge(random_updates(shape, count, seed))
        assert (tuple(merged.shape), merged.dtype) == (shape, torch.float64)
        assert torch.isfinite(merged).all()

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_same_updates_give_the_same_bits(self, shape: Shape) -> None:
        torch.manual_seed(1)
        first = self.merge(random_updates(shape))
        torch.manual_seed(2)
        assert torch.equal(self.merge(random_updates(shape)), first), "it depends on torch's global seed"

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_updates_are_left_as_they_are(self, shape: Shape) -> None:
        updates = random_updates(shape)
        self.method.merge_weight(updates)
        for update, before in zip(updates, random_updates(shape), strict=True):
            assert torch.equal(update, before)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_updates_of_float32_are_merged_in_float64(self, shape: Shape) -> None:
        updates = [update.float() for update in random_updates(shape)]
        exact = self.merge([update.double() for update in updates])
        torch.testing.assert_close(self.merge(updates), exact, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_updates_of_zero_give_zero(self, shape: Shape) -> None:
        assert not self.merge([torch.zeros(shape, dtype=torch.float64)] * 3).any()

    @pytest.mark.parametrize("shape", SHAPES)
    def test_one_task_that_did_not_move_gives_no_nan(self, shape: Shape) -> None:
        moved, _ = random_updates(shape, 2)
        assert torch.isfinite(self.merge([moved, torch.zeros_like(moved)])).all()

    @_some
    @given(shape=_any_shape, seed=st.integers(0, 2**31))
    def test_the_order_of_the_tasks_makes_no_difference(self, shape: Shape, seed: int) -> None:
        if not self.symmetric:
            pytest.skip("depends on the order, as it says")
        updates = random_updates(shape, seed=seed)
        torch.testing.assert_close(self.merge(updates[::-1]), self.merge(updates), rtol=1e-7, atol=1e-7)

    @_some
    @given(shape=_any_shape, seed=st.integers(0, 2**31))
    def test_updates_of_twice_the_size_give_twice_the_merge(self, shape: Shape, seed: int) -> None:
        if not self.homogeneous:
            pytest.skip("is not homogeneous, as it says")
        updates = random_updates(shape, seed=seed)
        doubled = self.merge([2 * update for update in updates])
        torch.testing.assert_close(doubled, 2 * self.merge(updates), rtol=1e-7, atol=1e-7)

    def test_updates_of_different_shapes_are_refused(self) -> None:
        with pytest.raises(Exception, match=r".+"):
            self.merge([torch.ones(4, 6), torch.ones(5, 7)])

    def test_the_merge_stays_on_the_device_of_the_updates(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        updates = [update.to(device) for update in random_updates((8, 6))]
        assert self.merge(updates).device.type == device
