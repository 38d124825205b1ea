"""Ctrl-C during a merge: ends it in seconds, wherever it is.

A KeyboardInterrupt would wait for what the other threads do, minutes with large models. Ending at once is
safe, since a stage counts only when its marker is written, and a killed merge goes on when it is run again.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ended_by_ctrl_c(tidy: Callable[[], None], say: Callable[[], int]) -> Iterator[None]:
    """Within, Ctrl-C runs ``tidy``, then ``say``, and ends the process with the exit code that it returns.

    The signal is blocked for the threads and processes that are started within, such as Prefect's server,
    which would else end before this process has told it anything. Only the main thread can do this; in any
    other, and where the system has no such masks, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "sigtimedwait"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if signal.sigtimedwait({signal.SIGINT}, 0.2) is not None:
                with contextlib.suppress(Exception):  # whatever fails, the user wants it to end
                    tidy()
                os._exit(say())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
