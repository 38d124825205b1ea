"""A part of a stage: done or found done, said in the log, its size known."""

import logging
import time
from collections.abc import Callable, Sequence

from esm_core.run_record import Part
from esm_core.stages import is_complete
from esm_core.storage import Location
from tasks.options import log_name

log = logging.getLogger(log_name)


def do_part(done: str, what: str, folders: Sequence[Location], work: Callable[[], object]) -> Part:
    """Do ``work``, which completes ``folders`` or finds them complete.

    Parameters
    ----------
    done, what : str
        For the log: ``collected`` ``the activation shifts of cars``, or ``reused`` them.
    """
    started, reused = time.monotonic(), all(map(is_complete, folders))
    work()
    size = sum(size for folder in folders for size, _ in folder.entries().values())
    if reused:
        log.info("reused %s", what)
    else:
        log.info("%s %s (%.1f s, %.3g MB)", done, what, time.monotonic() - started, size / 1e6)
    return Part(size, reused)
