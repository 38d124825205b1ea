"""What a piece of work costs: wall and CPU seconds, peak of resident memory, bytes read and written."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Usage:
    """What was used by this process, all its threads together.

    Attributes
    ----------
    wall, cpu : float
        Seconds.
    peak_rss : int
        Bytes, of the process since it started, what it imported included.
    read, written : int
        Bytes through system calls, whether or not a disk had to be asked; mapped files are not seen.
    """

    wall: float
    cpu: float
    peak_rss: int
    read: int
    written: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.wall + other.wall,
            self.cpu + other.cpu,
            max(self.peak_rss, other.peak_rss),
            self.read + other.read,
            self.written + other.written,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


NOTHING = Usage(0.0, 0.0, 0, 0, 0)


class Meter:
    """Measures from its making on; Linux only."""

    def __init__(self) -> None:
        self._io = _io()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def usage(self) -> Usage:
        """What was used since."""
        io = _io()
        return Usage(
            time.perf_counter() - self._wall,
            time.process_time() - self._cpu,
            peak_rss(),
            io["rchar"] - self._io["rchar"],
            io["wchar"] - self._io["wchar"],
        )


def measured(work: Callable[[], T]) -> tuple[T, Usage]:
    """The result of ``work``, and what it used."""
    meter = Meter()
    result = work()
    return result, meter.usage()


def peak_rss() -> int:
    """The most memory this process was resident with, bytes: of its own, not of the one that started it."""
    return _fields(_PROC / "status")["VmHWM"] * 1024


def resident() -> int:
    """The memory this process is resident with now, bytes."""
    return _fields(_PROC / "status")["VmRSS"] * 1024


def _io() -> dict[str, int]:
    return _fields(_PROC / "io")


def _fields(path: Path) -> dict[str, int]:
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            fields[name] = int(number[0])
    return fields
