"""The stages of a run: all parts of one end, progress shows in the UI, one error names each failed part."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.futures import PrefectFuture

from esm_core.errors import EsmergeError, MergeFailed
from esm_core.run_record import StageRecord, stage_record
from flows.show import LONG, Progress
from tasks.options import log_name

log = logging.getLogger(log_name)
steps = logging.getLogger(f"{log_name}.steps")
"""At DEBUG, every finished part: ``record.step`` is the stage, how many of it are done, and of how many."""


class Stages:
    """The stages of one run so far.

    Parameters
    ----------
    name : str
        Name of the artifact that is made.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._records: dict[str, StageRecord] = {}
        self._bars: dict[str, Progress] = {}
        self._done: Counter[str] = Counter()

    @property
    def records(self) -> list[StageRecord]:
        """What each stage took, in order."""
        return list(self._records.values())

    def gather(
        self, stage: str, futures: Mapping[str, PrefectFuture[Any]], in_all: int | None = None
    ) -> list[Any]:
        """Results in order, once every future has ended.

        Parameters
        ----------
        stage : str
            What the parts were doing, for the message.
        futures : mapping of part name to future
        in_all : int, optional
            Parts of the stage, where it takes several calls.

        Raises
        ------
        MergeFailed
            Names every part that failed and why; exit code 2 where all of them failed on bad input.
        """
        started = time.monotonic()
        parts = in_all or len(futures)
        bar = self._bars.get(stage) or Progress(self._name, stage, parts)
        self._bars[stage] = bar
        self._tell(stage, parts, 0)
        for future in futures.values():
            future.wait(timeout=LONG)
            bar.show()
            future.wait()
            bar.advance()
            self._tell(stage, parts, 1)
        results = {name: _result(future) for name, future in futures.items()}
        failed = {name: result for name, result in results.items() if isinstance(result, BaseException)}
        if failed:
            raise merge_failed(stage, failed.items())
        record = stage_record(stage, time.monotonic() - started, list(results.values()))
        before = self._records.get(stage)
        self._records[stage] = record if before is None else before + record
        if in_all is None and record.parts > 1:
            reused = f", {record.reused} of them reused" if record.reused else ""
            log.info("%s: %d done%s (%.1f s)", stage, record.parts, reused, record.seconds)
        return list(results.values())

    def _tell(self, stage: str, parts: int, more: int) -> None:
        self._done[stage] += more
        step = (stage, self._done[stage], parts)
        steps.debug("%s: %d of %d", *step, extra={"step": step})


def _result(future: PrefectFuture[Any]) -> Any:
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:  # of the runner, not of the task: a worker that died again and again
        if type(error).__name__ == "KilledWorker":
            return EsmergeError(
                "its Dask worker died each time it ran. The worker's log says why; most often it had too "
                "little memory. What was finished is kept: run again."
            )
        return error


def merge_failed(stage: str, failed: Iterable[tuple[str, BaseException]]) -> MergeFailed:
    """The one error for the failed parts of a stage; equal reasons are said once."""
    by_reason: dict[str, list[str]] = {}
    codes = set()
    for name, error in failed:
        known = isinstance(error, EsmergeError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        by_reason.setdefault(reason, []).append(name)
        codes.add(error.exit_code if isinstance(error, EsmergeError) else 1)
    lines = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    text = lines[0] if len(lines) == 1 else "\n".join(f"  - {line}" for line in lines)
    separator = " " if len(lines) == 1 else "\n"
    return MergeFailed(f"{stage} failed for{separator}{text}", exit_code=max(codes) if codes == {2} else 1)
