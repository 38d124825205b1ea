"""Reading ahead: in order, one ahead, errors where they belong, no thread left."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from esm_core.prefetch import prefetched, to_device


def wait_until(said: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_values_come_in_order(count: int) -> None:
    assert list(prefetched(lambda n: n * n, range(count))) == [n * n for n in range(count)]


def test_the_next_one_and_no_more_is_read_while_the_caller_works() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number

    for number in prefetched(read, range(5)):
        ahead = min(number + 2, 5)
        wait_until(lambda ahead=ahead: len(begun) == ahead)  # type: ignore[misc]
        time.sleep(0.02)
        assert begun == list(range(ahead))


def test_another_thread_reads() -> None:
    readers = set(prefetched(lambda _: threading.current_thread(), range(3)))
    assert len(readers) == 1
    assert threading.current_thread() not in readers


def test_an_error_is_raised_at_its_place_and_ends_the_reading() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("the third one")
        return number

    found = prefetched(read, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="the third one"):
        next(found)
    assert list(found) == []
    assert begun == [0, 1, 2]


def test_leaving_early_waits_for_the_reading_and_ends_the_thread() -> None:
    ended: list[int] = []

    def read(number: int) -> int:
        time.sleep(0.05)
        ended.append(number)
        return number

    with contextlib.closing(prefetched(read, range(5))) as found:
        assert next(found) == 0
        assert threads() != []
    assert threads() == []
    assert ended == [0, 1]


def test_a_value_is_the_callers_alone() -> None:
    """Two at most are in memory: what the caller has let go of is gone before the next one is asked for."""

    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    found = prefetched(lambda _: Value(), range(2))
    value = next(found)
    wait_until(lambda: Value.alive == 2)
    del value
    assert Value.alive == 1
    assert isinstance(next(found), Value)
    assert Value.alive == 0
    assert list(found) == []


def test_on_the_cpu_a_tensor_is_itself() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, "cpu") is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_it_arrives_whole() -> None:
    tensors = [torch.randn(512, 512, dtype=torch.float64) for _ in range(4)]
    for sent, arrived in zip(tensors, prefetched(lambda t: to_device(t, "cuda"), tensors), strict=True):
        assert arrived.is_cuda
        assert torch.equal((arrived + 1).cpu(), sent + 1)
