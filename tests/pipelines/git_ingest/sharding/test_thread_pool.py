"""Tables do not depend on the number of threads, and each item is processed exactly once."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.sharding.thread_pool import (
    IndexScheduler,
    ThreadIndices,
    run_in_threads,
    run_jobs,
)


def test_two_threads_take_indices_from_both_ends() -> None:
    scheduler = IndexScheduler(5, n_threads=2)
    assert [scheduler.take(thread) for thread in (0, 1, 1, 0, 1, 0)] == [0, 4, 3, 1, 2, None]


def test_a_thread_with_an_empty_range_takes_from_the_longest() -> None:
    scheduler = IndexScheduler(8, n_threads=3)
    assert [scheduler.take(2) for _ in range(4)] == [4, 5, 6, 7]
    assert scheduler.peek(2) == 0
    assert [scheduler.take(thread) for thread in (0, 2, 1, 2, 0)] == [0, 1, 3, 2, None]


@pytest.mark.parametrize("n_items", [0, 1, 7, 40])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_item_is_processed_once(n_items: int, n_threads: int) -> None:
    def work(indices: ThreadIndices) -> Iterator[int]:
        yield from indices

    assert sorted(run_in_threads(n_items, n_threads, work)) == list(range(n_items))


def test_an_error_in_a_thread_is_raised_and_the_others_stop() -> None:
    failed = threading.Event()

    def work(indices: ThreadIndices) -> Iterator[int]:
        for index in indices:
            if index == 0:
                failed.set()
                raise ValueError("zero")
            failed.wait(10)
            yield index

    before = threading.active_count()
    with pytest.raises(ValueError, match="zero"):
        list(run_in_threads(1_000_000, 2, work))
    assert threading.active_count() == before


def test_results_are_in_order_and_an_error_is_raised_in_its_turn() -> None:
    jobs = [(None, (0,)), *((pow, (n, 2)) for n in range(1, 20)), (divmod, (1, 0))]
    results = run_jobs(jobs, 3)
    assert [next(results) for _ in range(20)] == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_tables_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for i in range(400):
        repository.commit(f"Set value {i}", {f"a{i % 5}.py": f"x = {i}\n"})
    one = ingest(repository.path, tmp_path / "out", n_processes=1).all_rows()
    (tmp_path / "out" / "cache").rename(tmp_path / "other")
    three = ingest(repository.path, tmp_path / "out", n_processes=3)
    assert three.report["history"][0]["commits_read_now"] == 400
    assert three.all_rows() == one
