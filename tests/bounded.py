"""Running code on malicious input in a process that cannot take the machine down."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# The limits are a safety net; what the process really took is measured.
_PROGRAM = """
import json, resource, sys
from esm_core import InputError
from esm_core.checkpoints import open_checkpoint
from esm_core.images import open_images
from esm_core.images.decode import decode
from esm_core.storage import Location

def checkpoint(location):
    opened = open_checkpoint(location)
    for name in opened.tensors:
        opened.read(name)

def images(location):
    source = open_images(location)
    for sample in source.read(source.sample_ids()):
        decode(sample, source.location)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

kind, *paths = sys.argv[1:]
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 3 * 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
for path in paths:
    before = peak()
    try:
        globals()[kind](Location.parse(path))
        outcome = "accepted"
    except InputError as error:
        outcome = f"InputError: {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    print(json.dumps({"path": path, "outcome": outcome, "took": peak() - before}), flush=True)
"""


@dataclass(frozen=True)
class Refusal:
    """What became of one file: the outcome, and by how many bytes it raised the peak of resident memory."""

    outcome: str
    took: int


def opened_in_bounds(kind: str, paths: list[Path]) -> dict[str, Refusal]:
    """Open and read files (``kind``: ``checkpoint`` or ``images``) one after the other; by file name."""
    command = [sys.executable, "-c", _PROGRAM, kind, *map(str, paths)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, check=False, timeout=200)
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(rows) == len(paths), f"died at {paths[len(rows)]}: {done.returncode} {done.stderr.decode()}"
    return {Path(row["path"]).name: Refusal(row["outcome"], row["took"]) for row in rows}
