"""Speed and scale of a merge: ``python benchmarks/scale.py --quick --json PATH``; see ``--help``."""

import sys
from pathlib import Path

# This checkout's code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scaling.command import main

if __name__ == "__main__":
    main()
