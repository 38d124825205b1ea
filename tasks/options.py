"""What every task of a merge has in common.

Markers in the store decide what is done, so Prefect caches and persists nothing. Only storage errors
that may pass are retried.
"""

from typing import Any

import torch
from prefect.cache_policies import NO_CACHE
from threadpoolctl import threadpool_limits

from esm_core.environment import threads_per_task
from esm_core.errors import TransientStorageError

log_name = "esmerge"


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Retry condition: the task failed on storage in a way that may pass."""
    return isinstance(state.data, TransientStorageError)


OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 4,
    "retry_delay_seconds": [1, 4, 15, 60],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}


def set_threads() -> None:
    """Give this task its share of the cores: ``ESMERGE_THREADS`` threads, 1 where not set.

    Parallel tasks, not threads inside one, use the cores; one thread also keeps bits the same.

    Raises
    ------
    InputError
        ``ESMERGE_THREADS`` is no number.
    """
    threads = threads_per_task()
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # SciPy's, beside torch's own
