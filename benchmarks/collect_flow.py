"""The collecting stage alone, on the Dask cluster of the environment; prints its wall seconds."""

import sys
from pathlib import Path

from deployments.local import configure_environment

configure_environment()

from prefect import flow  # noqa: E402

from benchmarks.plain_merge import plan_of  # noqa: E402
from esm_core.plan import save_plan  # noqa: E402
from flows.merge import collect_all  # noqa: E402
from flows.runner import check_workers, task_runner  # noqa: E402
from flows.stages import Stages  # noqa: E402
from tasks import merge as tasks  # noqa: E402


@flow(persist_result=False, task_runner=task_runner())
def collect_only(recipe: str) -> float:
    """Collect every fine-tune of a recipe on workers that have imported all they need."""
    plan = plan_of(Path(recipe))
    check_workers(plan.recipe)
    stages = Stages("bench")
    names = [task.name for task in plan.tasks]
    warm = tasks.inspect_one.map([plan.recipe] * len(names), names)
    stages.gather("warming up", dict(zip(names, warm, strict=True)))
    collect_all(save_plan(plan), stages)
    return stages.records[-1].seconds


if __name__ == "__main__":
    print(collect_only(sys.argv[1]))
