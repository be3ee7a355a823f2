import ast
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.builders.git_repository import GitRepository
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from tests.execution.simple_jobs import die, fail, square
from tests.pipelines.git_ingest.ingesting import IngestResult, ingest

from the_block_llm.datasets.object_store import resolve_location
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.models.profiles import ModelProfiles
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure, fan_out
from the_block_llm.pipelines.sequence_build import nodes as sequences
from the_block_llm.pipelines.sequence_build.documents import repository_batches
from the_block_llm.pipelines.sequence_build.packing import windows
from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams
from the_block_llm.schemas import DOCUMENTS, ROWS

ON_RAY = ExecutionParams(engine="ray", retries=5)


@pytest.mark.slow
def test_every_job_returns_its_result(cluster: Any) -> None:
    found = dict(run_on_ray([(square, (n,)) for n in range(20)], ON_RAY))
    assert found == {n: n * n for n in range(20)}


def test_jobs_are_taken_only_as_fast_as_the_cluster_runs_them(cluster: Any) -> None:
    taken = 0

    def endless() -> Iterator[Call]:
        nonlocal taken
        while True:
            taken += 1
            yield square, (taken,)

    results = run_on_ray(endless(), ExecutionParams(engine="ray", prefetch_tasks=2))
    for done in range(1, 30):
        next(results)
        # Two cores, each with one running and two queued tasks.
        assert taken - done < 2 * (1 + 2)
    results.close()


def test_an_error_of_a_job_is_raised_in_the_driver(cluster: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="job 7"):
        list(run_on_ray([(fail, (7,))], ON_RAY))


def test_a_job_is_retried_after_its_worker_died(cluster: Any, tmp_path: Path) -> None:
    assert dict(run_on_ray([(die, (tmp_path, 2))], ON_RAY)) == {0: "done"}


def test_a_job_whose_worker_always_dies_is_lost(cluster: Any, tmp_path: Path) -> None:
    once = ExecutionParams(engine="ray", retries=1)
    [(_, result)] = run_on_ray([(die, (tmp_path, 99))], once)
    assert isinstance(result, WorkerLost)
    assert "died" in result.reason


def test_only_the_job_that_kills_its_worker_is_lost_of_several_in_a_task(
    cluster: Any, tmp_path: Path
) -> None:
    jobs: list[Call] = [(square, (n,)) for n in range(6)]
    jobs[3] = (die, (tmp_path, 99))
    once = ExecutionParams(engine="ray", retries=1)
    found = list(fan_out(jobs, 1, once, "Trying"))
    assert [found[n] for n in (0, 1, 2, 4, 5)] == [0, 1, 4, 16, 25]
    assert isinstance(found[3], Failure)
    assert "died" in found[3].reason


def test_an_unreachable_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options: Any) -> None:
        raise ConnectionError(f"no answer from {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    nowhere = ExecutionParams(engine="ray", address="127.0.0.1:1")
    with pytest.raises(ExecutionError, match=r"cannot be reached.*127\.0\.0\.1:1"):
        list(run_on_ray([], nowhere))


_STARTS = """
import os

import psutil
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray

def listening(driver):
    found = set()
    here = psutil.Process(driver)
    for process in (here, *here.children(recursive=True)):
        try:
            sockets = process.net_connections("inet")
        except psutil.Error:
            continue
        found |= {one.laddr.ip for one in sockets if one.status == "LISTEN"}
    return sorted(found)

# Workers import this module as well, so it must run nothing at import.
def main():
    jobs = [(listening, (os.getpid(),))]
    print(list(run_on_ray(jobs, ExecutionParams(engine="ray", cpus=1))))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray listens on loopback by default")
def test_a_ray_that_is_started_here_listens_on_loopback_only(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "starts.py").write_text(_STARTS)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    }
    done = subprocess.run(
        [sys.executable, "-c", "import starts; starts.main()"],
        cwd=tmp_path, text=True, check=True, stdout=subprocess.PIPE, timeout=300,
        env=environment | {"PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])},
    )  # fmt: skip
    [(number, addresses)] = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert number == 0
    assert addresses
    assert all(address.removeprefix("::ffff:") == "127.0.0.1" for address in addresses)


def create_repositories(folder: Path, n_repositories: int, n_commits: int) -> Path:
    words = iter(range(10**6))
    first = ""
    for name in range(n_repositories):
        repository = GitRepository(folder / f"service{name}")
        for number in range(n_commits):
            lines = "".join(
                f"def settle_{next(words)}(claim{next(words)}): return {next(words)}\n"
                for _ in range(12)
            )
            subject = f"Settle claims of kind {next(words)} before {next(words)} for {name}"
            files = {f"part{number}.py": lines}
            first = lines if number == 0 else first
            if number + 1 == n_commits:
                files["copied.py"] = first  # after the cut-off: a copy of training text
            repository.commit(subject, files)
    GitRepository(folder / "empty")
    return folder


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_repositories(tmp_path_factory.mktemp("clones"), 12, 6)


@pytest.fixture(scope="module")
def local(clones: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    """Ingest the clones with the local engine."""
    folder = tmp_path_factory.mktemp("local")
    return ingest(".", folder, repositories=str(clones), n_processes=1, cutoff=0.8)


def part_bytes(*tables: ParquetTable) -> list[list[bytes]]:
    return [[part.read_bytes() for part in table.parts] for table in tables]


@contextmanager
def dying_node(cluster: Any, folder: Path, finished: str) -> Iterator[list[int]]:
    """Add a node, killed once a file matches ``finished``; yields how many matched by then."""
    doomed = cluster.add_node(num_cpus=1, object_store_memory=80 * 1024 * 1024)
    finished_before: list[int] = []

    def kill_after_first_file() -> None:
        deadline = time.monotonic() + 240  # takes seconds, unless the machine is busy
        while not list(folder.glob(finished)) and time.monotonic() < deadline:
            time.sleep(0.005)
        finished_before.append(len(list(folder.glob(finished))))
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill_after_first_file)
    killer.start()
    yield finished_before
    killer.join()


@pytest.mark.slow
def test_ingest_writes_the_bytes_of_the_local_run_if_a_node_dies(
    cluster: Any, tmp_path: Path, clones: Path, local: IngestResult
) -> None:
    shutil.copy(local.commits.folder.parent / "pseudonym.key", tmp_path)
    with dying_node(cluster, tmp_path / "cache", "*/history/*.json") as finished_before:
        on_ray = ingest(".", tmp_path, repositories=str(clones), execution=ON_RAY, cutoff=0.8)
    assert 0 < finished_before[0] < 12, "the node must die during the run"
    tables = ("commits", "file_changes", "snapshot_files")
    assert part_bytes(*(getattr(on_ray, name) for name in tables)) == part_bytes(
        *(getattr(local, name) for name in tables)
    )
    assert on_ray.report["left_out"] == local.report["left_out"]
    assert len(on_ray.report["history"]) == 12


@pytest.mark.slow
def test_documents_have_the_bytes_of_the_local_run_if_a_node_dies(
    cluster: Any,
    tmp_path: Path,
    local: IngestResult,
    credentials: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three batches of four repositories each.
    monkeypatch.setattr(repository_batches, "_COMMITS_PER_BATCH", 24)
    profile = tiny_profile(save_tiny_llama(tmp_path / "base"))
    params = SequenceBuildParams(cutoff=0.8, work_folder=str(tmp_path / "work"))
    choices = (ModelProfiles({"m": profile}), "m", params)
    inputs = (local.repository, local.commits, local.file_changes, local.snapshot_files)
    screening = sequences.screen_documents(*inputs, *choices)

    def documents(engine: ExecutionParams) -> ParquetTable:
        batches = sequences.render_documents(*inputs, screening, *choices, engine)
        return save_table(tmp_path / engine.engine, DOCUMENTS, batches)

    on_local = documents(ExecutionParams())
    with dying_node(cluster, tmp_path / "work", "*/*/*.parquet") as finished_before:
        on_ray = documents(ON_RAY)
    assert 0 < finished_before[0] < 3, "the node must die during the run"
    assert len(on_local.parts) == 3
    assert part_bytes(on_ray) == part_bytes(on_local)
    assert sequences.screen_documents(*inputs, *choices, ON_RAY) == screening
    assert screening["leaks"]  # otherwise there is little to compare
    # Rows too: several windows, each packed by a task.
    monkeypatch.setattr(windows, "_MAX_WINDOW_TOKENS", 4000)
    packed = [
        save_table(
            tmp_path / f"rows-{engine.engine}",
            ROWS,
            sequences.pack_train(on_local, *choices, engine),
        )
        for engine in (ExecutionParams(), ON_RAY)
    ]
    assert len(packed[0].parts) > 2
    assert part_bytes(packed[1]) == part_bytes(packed[0])

    # Tables in an object store: tasks read and write there.
    stored = tuple(
        save_table(
            resolve_location(f"s3://tables/in/{name}", credentials), table.schema, table.parts
        )
        for name, table in zip(("commits", "changes", "files"), inputs[1:], strict=True)
    )
    documents = resolve_location("s3://tables/in/documents", credentials)
    rendered = sequences.render_documents(local.repository, *stored, screening, *choices, ON_RAY)
    assert part_bytes(save_table(documents, DOCUMENTS, rendered)) == part_bytes(on_local)
    again = sequences.screen_documents(local.repository, *stored, *choices, ON_RAY)
    assert again == screening
    remaining = fsspec.filesystem("s3", use_listings_cache=False, **credentials).find("tables/in")
    assert {path.split("/")[2] for path in remaining} == {
        "commits",
        "changes",
        "files",
        "documents",
    }
