"""The command: models, measurements, JSON and page."""

import argparse
import json
from pathlib import Path

from benchmarks.quality_parts.run import TASKS, Job, measure_all
from benchmarks.quality_parts.variants import VARIANTS
from demo.prepare import QUICK_SCHEDULE, QUICK_SIZES, SCHEDULE, SIZES, prepare


def main() -> None:
    """Parse the arguments, measure what is not kept, write."""
    parser = argparse.ArgumentParser(description="How good the merges are.")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.add_argument("--quick", action="store_true", help="a seed of tiny, poor models: only that it runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    parser.add_argument("--tasks", type=int, choices=sorted(TASKS), help="only this many tasks")
    parser.add_argument("--work", type=Path, default=Path(".bench/quality"), help="models and kept results")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    sizes, schedule = (QUICK_SIZES, QUICK_SCHEDULE) if options.quick else (SIZES, SCHEDULE)
    names = tuple(variant.name for variant in VARIANTS)
    jobs = []
    for seed in range(1 if options.quick else options.seeds):
        folder = options.work / f"{'quick' if options.quick else 'seed'}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, sizes, schedule, seed)
        for count in [options.tasks] if options.tasks else sorted(TASKS, reverse=True):
            jobs.append(Job(seed, count, folder, options.work, names))
    found = {f"{job.seed}-{job.tasks}": results for job, results in measure_all(jobs, options.workers)}
    options.json.write_text(json.dumps(found, indent=1) + "\n")
