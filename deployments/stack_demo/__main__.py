"""Land the demo's fine-tunes in a running stack, and watch the platform publish by itself."""

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from deployments.stack.environment import BUCKET, inherited, read_environment
from deployments.stack.http import ask
from deployments.stack_demo.follow import Follower
from deployments.stack_demo.inputs import NAME, FineTune, Place, land, prepare, recipe_text, upload_base
from deployments.stack_demo.reuse import check_reuse
from esm_core.artifacts import Version, open_version, version_numbers
from esm_core.errors import EsmergeError, InputError
from esm_core.storage import Location


def main() -> int:
    """Parse the arguments and run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack_demo", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".stack"), help="state folder of the stack")
    parser.add_argument("--demo", type=Path, default=Path(".demo"), help="folder of the demo's models")
    parser.add_argument("--quick", action="store_true", help="four poor fine-tunes, made in seconds")
    parser.add_argument("--minutes", type=float, default=15, help="how long to wait for each version")
    arguments = parser.parse_args()
    try:
        values = read_environment(arguments.state.resolve() / "env")
        os.environ.update(inherited(os.environ) | values)
        run_demo(arguments.demo.resolve(), arguments.quick, 60 * arguments.minutes)
    except EsmergeError as error:
        print(f"esmerge stack-demo: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what has started goes on, see the Prefect pages", file=sys.stderr, flush=True)
        return 130
    return 0


def run_demo(models: Path, quick: bool, seconds: float) -> None:
    """Land all fine-tunes but one, follow until they are merged, land the last, follow again.

    Raises
    ------
    EsmergeError
        The stack does not answer, a run failed, or a version was not published in time.
    """
    api = os.environ["PREFECT_API_URL"]
    _check_stack(api)
    finetunes = prepare(models, quick)
    place = Place(Location(f"s3://{BUCKET}/demo") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    print(f"\nEverything of this run is in {place.folder}")
    upload_base(models, place)
    *first, last_but_one, last = finetunes
    # These land before the platform is given the recipe. Else it would merge after the second of them.
    for finetune in first:
        _land(place, finetune, tell=False)
    recipe = Location.parse(os.environ["ESMERGE_RECIPE"])
    recipe.write_bytes(recipe_text(place, quick).encode())
    _turn_on_the_schedule(api)
    print(f"The recipe is {recipe}: it merges whatever is in the registry. From here on, hands off.\n")
    follower = Follower(api, api.removesuffix("/api") + "/v2", lambda line: print(line, flush=True))
    before = _land_and_follow(place, last_but_one, len(first) + 1, follower, seconds)
    seen = len(follower.lines)
    after = _land_and_follow(place, last, len(finetunes), follower, seconds)
    finding = check_reuse(before.manifest, after.manifest, follower.lines[seen:])
    print(f"{after.label} after {before.label}: {finding}")
    print(f"\nThe runs:      {follower.ui}/runs")
    print(f"The versions:  esmerge show --store {place.store} {NAME}   (after: source the stack's env)")


def _check_stack(api: str) -> None:
    try:
        ask(f"{api}/health")
    except OSError as error:
        raise InputError(f"The stack does not answer at {api}: start it with `make stack`.") from error


def _land_and_follow(
    place: Place, finetune: FineTune, count: int, follower: Follower, seconds: float
) -> Version:
    _land(place, finetune, tell=True)
    started = time.monotonic()

    def published() -> Version | None:
        if not place.store.is_dir() or not version_numbers(place.store, NAME):
            return None
        version = open_version(place.store, NAME)
        return version if len(version.manifest["inputs"]["tasks"]) == count else None

    version = follower.until(f"a version with {count} fine-tunes", seconds, published)
    took = time.monotonic() - started
    print(f"\n{NAME} {version.label}: {count} fine-tunes, {took:.0f} s after {finetune.name} landed\n")
    return version


def _land(place: Place, finetune: FineTune, tell: bool) -> None:
    print(f"esmerge land {place.registry} {finetune.name} ...", flush=True)
    for line in land(place, finetune, tell):
        print(f"    {line}", flush=True)


def _turn_on_the_schedule(api: str) -> None:
    """It was registered turned off where there was no recipe to look at."""
    deployment = ask(f"{api}/deployments/name/watch/watch")
    for schedule in deployment["schedules"]:
        url = f"{api}/deployments/{deployment['id']}/schedules/{schedule['id']}"
        ask(url, {"active": True}, method="PATCH")


if __name__ == "__main__":
    sys.exit(main())
