"""How good the merges are: the demo's eight tasks, several seeds, every method and setting side by side.

``python benchmarks/quality.py --json PATH [--quick] [--seeds N] [--tasks T]``
"""

import sys
from pathlib import Path

# This checkout's code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality_parts.cli import main

if __name__ == "__main__":
    main()
