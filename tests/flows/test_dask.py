"""The same merge on a Dask cluster: the same bytes, on workers that share nothing but the bucket."""

import os
import platform
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from distributed import Client
from prefect import flow, task
from safetensors.torch import load_file
from services import Command, DaskCluster, Outcome, S3Server, dask_cluster
from threadpoolctl import threadpool_info
from undisturbed import Undisturbed, undisturbed
from world import World, weight_files

from esm_core.errors import MergeFailed
from esm_core.storage import Location
from flows.runner import task_runner
from flows.stages import Stages
from tasks.options import OPTIONS, set_threads

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.dask, pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

# Every worker says by a file that it has come to a function, and waits there for a while, once.
SLOW_WORKER = """
import os, pathlib, time
import esm_core.stage_collect, esm_core.layer_merges, esm_core.experts.stage_decompose

def slowed(module, name, label):
    real = getattr(module, name)
    def slow(*arguments, **options):
        mark = pathlib.Path({folder!r}, f"{{label}}-{{os.getpid()}}")
        if not mark.exists():
            mark.touch()
            time.sleep(1.0)
        return real(*arguments, **options)
    setattr(module, name, slow)

slowed(esm_core.stage_collect, "collect_inputs", "collecting")
slowed(esm_core.layer_merges, "decompose", "decomposing")
slowed(esm_core.layer_merges, "fuse", "merging")
slowed(esm_core.experts.stage_decompose, "decompose", "experts")
"""


EXPERTS = {"experts": {"rank": 4}}
InBucket = Callable[[dict[str, Any]], tuple[World, Location, dict[str, str]]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[DaskCluster]:
    """Two workers in an empty folder, one of which offers a GPU; the bucket is all they know."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), ["GPU=1", ""]) as found:
        yield found


@pytest.fixture
def in_bucket(make_world: Callable[..., World], undisturbed: Undisturbed, s3: S3Server) -> InBucket:
    """A world with such settings, a bucket with its inputs, and the files of a merge on this machine."""

    def lay(settings: dict[str, Any]) -> tuple[World, Location, dict[str, str]]:
        world = make_world("inputs", test=False)
        world.recipe |= settings
        bucket = s3.bucket()
        world.upload_to(bucket)
        return world, bucket, weight_files(Location.parse(str(undisturbed(settings))), "pets")

    return lay


def tasks_run_by(log: Path) -> set[str]:
    return {name.split("-")[0] for name in re.findall(r"Task run '([\w.-]+)'", log.read_text())}


@pytest.mark.s3
def test_workers_that_share_only_the_bucket_make_the_same_bytes(
    in_bucket: InBucket,
    esmerge: Command,
    cluster: DaskCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, bucket, alone = in_bucket({**EXPERTS, "alpha": "label_free"})
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)
    merged = esmerge("merge", f"{bucket}/inputs/recipe.yaml")
    assert merged.code == 0, merged.err + cluster.logs()
    assert weight_files(bucket / "store", "pets") == alone
    with_gpu, without = (tasks_run_by(cluster.folder / f"worker-{number}.log") for number in range(2))
    assert "collect" in with_gpu
    assert "collect" not in without
    assert "merge" in with_gpu & without, "layers are spread over all workers"
    assert "collecting: 3 done" in merged.err
    assert "up to date" in esmerge("merge", f"{bucket}/inputs/recipe.yaml").out


@pytest.mark.s3
@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_in_every_stage_is_replaced_and_the_merge_completes(
    in_bucket: InBucket, esmerge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bucket, alone = in_bucket(EXPERTS)
    stages = ["collecting", "decomposing", "merging", "experts"]
    with dask_cluster(tmp_path, ["GPU=1", ""], SLOW_WORKER.format(folder=str(tmp_path))) as cluster:
        monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)
        killed: list[int] = []
        killer = threading.Thread(target=lambda: killed.extend(kill_one(tmp_path, stage) for stage in stages))
        killer.start()
        merged = esmerge("merge", f"{bucket}/inputs/recipe.yaml")
        killer.join()
        assert merged.code == 0, merged.err + cluster.logs()
        assert len(set(killed)) == len(stages)
        assert not any(psutil.pid_exists(pid) for pid in killed)
    assert weight_files(bucket / "store", "pets") == alone


def kill_one(folder: Path, stage: str) -> int:
    """Kill, by SIGKILL, the first worker that is in ``stage``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for mark in folder.glob(f"{stage}-*"):
            pid = int(mark.name.rsplit("-", 1)[1])
            if psutil.pid_exists(pid):  # one that was killed in an earlier stage may have come to this one
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.05)
    raise AssertionError(f"no worker ever was {stage}")


@pytest.mark.s3
@pytest.mark.fault
@pytest.mark.slow
def test_a_worker_whose_disk_is_full_is_named_and_the_merge_completes_once_it_has_space(
    in_bucket: InBucket,
    esmerge: Command,
    cluster: DaskCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers need their disks for checkpoints of torch.save, which are downloaded."""
    world, bucket, alone = in_bucket(EXPERTS)
    torch.save(load_file(world.root / "cats.safetensors"), world.root / "cats.pt")
    world.task("cats")["checkpoint"] = "cats.pt"
    world.upload_to(bucket)
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)

    def leave_space(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with Client(cluster.address, set_as_default=False) as client:
        client.run(leave_space, 50_000)
        try:
            full = esmerge("merge", f"{bucket}/inputs/recipe.yaml")
        finally:
            client.run(leave_space, resource.RLIM_INFINITY)
    assert full.code == 2, full.err
    assert "inspecting failed for cats: " in full.err
    assert "cannot write it: the disk is full" in full.err
    assert f"Free some space on {platform.node()} and run again" in full.err
    assert not (bucket / "store/artifacts").is_dir()
    merged = esmerge("merge", f"{bucket}/inputs/recipe.yaml")
    assert merged.code == 0, merged.err + cluster.logs()
    assert weight_files(bucket / "store", "pets") == alone


@pytest.mark.s3
def test_what_a_worker_cannot_read_arrives_as_one_message(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)

    @task(**OPTIONS)
    def read(url: str) -> bytes:
        return Location.parse(url).read_bytes()

    @flow(task_runner=task_runner())
    def read_both() -> None:
        urls = {name: f"s3://nobody-has-this/{name}" for name in ("cats", "dogs")}
        Stages("pets").gather("reading", {name: read.submit(url) for name, url in urls.items()})

    with pytest.raises(MergeFailed, match=r"dogs: s3://nobody-has-this/dogs: .*NoSuchBucket") as failed:
        read_both()
    assert failed.value.exit_code == 2


@pytest.mark.s3
@pytest.mark.parametrize(("wanted", "threads"), [("", 1), ("2", 2)])
def test_a_task_takes_its_share_of_a_workers_cores(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch, wanted: str, threads: int
) -> None:
    """Whatever the worker was started with: two workers on one machine would else take its cores twice."""
    monkeypatch.setenv("ESMERGE_DASK_ADDRESS", cluster.address)

    @task(**OPTIONS)
    def threads_of_a_task() -> set[int]:
        torch.set_num_threads(3)
        set_threads()
        blas = (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return {torch.get_num_threads(), *blas}

    @flow(task_runner=task_runner())
    def ask() -> set[int]:
        return threads_of_a_task.submit().result()

    with Client(cluster.address, set_as_default=False) as client:
        client.run(lambda: os.environ.update(ESMERGE_THREADS=wanted))
        try:
            assert ask() == {threads}
        finally:
            client.run(lambda: os.environ.pop("ESMERGE_THREADS"))


def refused(esmerge: Command, world: World, **variables: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return esmerge("merge", world.recipe_path)


def test_a_cuda_device_needs_a_worker_that_offers_one(world: World, esmerge: Command, tmp_path: Path) -> None:
    world.recipe["fuse"] = {"device": "cuda"}
    with dask_cluster(tmp_path, [""]) as cluster:
        outcome = refused(esmerge, world, ESMERGE_DASK_ADDRESS=cluster.address)
    assert outcome.code == 2
    assert "no Dask worker" in outcome.err
    assert "--resources GPU=1" in outcome.err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ESMERGE_RUNNER": "ray"}, "must be threads or dask"),
        ({"ESMERGE_RUNNER": "dask"}, "needs ESMERGE_DASK_ADDRESS"),
        ({"ESMERGE_DASK_ADDRESS": "tcp://127.0.0.1:9"}, "No Dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_a_wrong_runner_is_named(
    world: World,
    esmerge: Command,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr("flows.runner._SECONDS_TO_CONNECT", 2)
    outcome = refused(esmerge, world, **variables)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (world.root / "store" / "artifacts").exists()
