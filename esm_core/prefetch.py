"""Reading ahead: what is needed next comes from storage while the present one is computed with."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")


def prefetched(read: Callable[[Key], Value], keys: Iterable[Key]) -> Generator[Value, None, None]:
    """``read(key)`` of every key, in order, the next one read by a thread while the caller has this one.

    One is read ahead and no more, so two values are in memory at most. The thread has ended when the
    generator has: wrap it in :func:`contextlib.closing` where the loop may be left early.

    Raises
    ------
    Exception
        What ``read`` raised, at the place of its key; nothing is read after that.
    """
    waiting = iter(keys)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = [thread.submit(read, key) for key in _next(waiting)]
        while ahead:
            present = [ahead.pop().result()]
            ahead = [thread.submit(read, key) for key in _next(waiting)]
            yield present.pop()  # so that the caller alone holds it


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The tensor on ``device``. A copy to a GPU goes through pinned memory, and nobody waits for it.

    It is queued on the current stream, before whatever will compute with it there.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _next(waiting: Iterable[Key]) -> list[Key]:
    for key in waiting:
        return [key]
    return []
