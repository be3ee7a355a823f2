"""Jobs on a Ray cluster of two nodes on this machine, one of which dies."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, Lost
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray

ON_RAY = ExecutionParams(engine="ray", retries=5)


def square(number: int) -> int:
    return number * number


def fail(number: int) -> None:
    raise ZeroDivisionError(f"job {number}")


def die(folder: Path, times: int) -> str:
    """End the worker process the first ``times`` times."""
    marks = len(list(folder.iterdir()))
    if marks < times:
        (folder / str(marks)).touch()
        os._exit(1)
    return "done"


@pytest.mark.slow
def test_every_job_gives_its_result(cluster: Any) -> None:
    found = dict(run_on_ray([(square, (n,)) for n in range(20)], ON_RAY))
    assert found == {n: n * n for n in range(20)}


def test_no_more_jobs_are_taken_than_the_cluster_can_work_off(cluster: Any) -> None:
    taken = 0

    def endless() -> Iterator[Call]:
        nonlocal taken
        while True:
            taken += 1
            yield square, (taken,)

    results = run_on_ray(endless(), ExecutionParams(engine="ray", waiting_tasks=2))
    for done in range(1, 30):
        next(results)
        # Two cores, one task that runs and two that wait on each.
        assert taken - done < 2 * (1 + 2)
    results.close()


def test_what_a_job_raises_is_raised_here(cluster: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="job 7"):
        list(run_on_ray([(fail, (7,))], ON_RAY))


def test_a_worker_that_dies_is_replaced(cluster: Any, tmp_path: Path) -> None:
    assert dict(run_on_ray([(die, (tmp_path, 2))], ON_RAY)) == {0: "done"}


def test_a_job_that_always_kills_its_worker_is_given_up(cluster: Any, tmp_path: Path) -> None:
    once = ExecutionParams(engine="ray", retries=1)
    [(_, result)] = run_on_ray([(die, (tmp_path, 99))], once)
    assert isinstance(result, Lost)
    assert "died" in result.reason


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options: Any) -> None:
        raise ConnectionError(f"no answer from {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    nowhere = ExecutionParams(engine="ray", address="127.0.0.1:1")
    with pytest.raises(ExecutionError, match=r"cannot be reached.*127\.0\.0\.1:1"):
        list(run_on_ray([], nowhere))


def organisation(folder: Path, n_repositories: int, n_commits: int) -> Path:
    for name in range(n_repositories):
        repository = GitRepository(folder / f"service{name}")
        for number in range(n_commits):
            lines = "".join(f"def f{name}_{number}_{i}(): return {i}\n" for i in range(20))
            repository.commit(f"Add part {number} of {name}", {f"part{number}.py": lines})
    GitRepository(folder / "empty")
    return folder


def part_bytes(got: Any) -> list[list[bytes]]:
    tables = (got.commits, got.file_changes, got.snapshot_files)
    return [[part.read_bytes() for part in table.parts] for table in tables]


@pytest.mark.slow
def test_ingest_gives_the_bytes_of_the_local_run_though_a_node_dies(
    cluster: Any, tmp_path: Path
) -> None:
    clones = str(organisation(tmp_path / "clones", 12, 6))
    local = ingest(".", tmp_path / "local", repositories=clones, n_processes=1)
    (tmp_path / "ray").mkdir()
    shutil.copy(tmp_path / "local" / "pseudonym.key", tmp_path / "ray")
    doomed = cluster.add_node(num_cpus=1, object_store_memory=80 * 1024 * 1024)
    cache = tmp_path / "ray" / "cache"
    finished_before: list[int] = []

    def kill_once_it_works() -> None:
        deadline = time.monotonic() + 60
        while not list(cache.glob("*/history/*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        finished_before.append(len(list(cache.glob("*/history/*.json"))))
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill_once_it_works)
    killer.start()
    on_ray = ingest(".", tmp_path / "ray", repositories=clones, execution=ON_RAY)
    killer.join()
    assert 0 < finished_before[0] < 12, "it died in the middle"
    assert part_bytes(on_ray) == part_bytes(local)
    assert on_ray.report["left_out"] == local.report["left_out"]
    assert len(on_ray.report["history"]) == 12
