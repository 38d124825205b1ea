"""Waiting for mapped tasks: all of them end, then one error names each that failed and why."""

from collections.abc import Iterable, Mapping
from typing import Any

from prefect.futures import PrefectFuture, wait

from esm_core.errors import EsmergeError, MergeFailed


def gather(stage: str, futures: Mapping[str, PrefectFuture[Any]]) -> list[Any]:
    """Results in order, once every future has ended.

    Parameters
    ----------
    stage : str
        What the parts were doing, for the message.
    futures : mapping of part name to future

    Raises
    ------
    MergeFailed
        Names every part that failed and why; exit code 2 where all of them failed on bad input.
    """
    wait(list(futures.values()))
    results = {name: future.result(raise_on_failure=False) for name, future in futures.items()}
    failed = {name: result for name, result in results.items() if isinstance(result, BaseException)}
    if failed:
        raise merge_failed(stage, failed.items())
    return list(results.values())


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
