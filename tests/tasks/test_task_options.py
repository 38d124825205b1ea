"""Only storage errors that may pass are retried."""

import pytest
from prefect import flow, task

from esm_core.errors import InputError, TransientStorageError
from tasks.options import OPTIONS

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def attempts_of(error: Exception, failures: int) -> int:
    """How often a task with esmerge's options ran that fails with ``error`` this many times."""
    calls = []

    @task(**{**OPTIONS, "retry_delay_seconds": 0, "retry_jitter_factor": None})
    def unsteady() -> None:
        calls.append(1)
        if len(calls) <= failures:
            raise error

    @flow
    def run() -> None:
        unsteady()

    if failures > OPTIONS["retries"] or not isinstance(error, TransientStorageError):
        with pytest.raises(type(error)):
            run()
    else:
        run()
    return len(calls)


def test_a_storage_error_that_passes_is_survived() -> None:
    assert attempts_of(TransientStorageError("s3://bucket/x: 503"), failures=2) == 3


def test_a_storage_error_that_stays_is_given_up() -> None:
    assert attempts_of(TransientStorageError("s3://bucket/x: 503"), failures=99) == 5


def test_bad_input_is_not_retried() -> None:
    assert attempts_of(InputError("task cats: broken"), failures=99) == 1
