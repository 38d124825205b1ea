"""Prepare the demo: real images, a base model, a fine-tune per task, heads and a recipe.

``python -m demo --out .demo``; a second run with the same settings returns at once.
"""

import argparse
from pathlib import Path

from demo.prepare import QUICK_SCHEDULE, QUICK_SIZES, SCHEDULE, SIZES, prepare


def main() -> None:
    """Parse the arguments and prepare what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; poor models")
    arguments = parser.parse_args()
    sizes, schedule = (QUICK_SIZES, QUICK_SCHEDULE) if arguments.quick else (SIZES, SCHEDULE)
    try:
        prepare(arguments.out, sizes, schedule, arguments.seed)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on with what is left") from None


if __name__ == "__main__":
    main()
