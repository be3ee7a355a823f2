"""Assigns the shards of large repositories to several workers.

A job with an assignment only adds finished shards to the repository's cache. A later job reads the
whole repository and finds them there, so the result is the same for any number of assignments,
workers and nodes; a job lost with its node costs only time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from the_block_llm.execution.jobs import Call
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure, fan_out

_T = TypeVar("_T")
RepositoryInfo = Mapping[str, Any]
COMMITS_PER_ASSIGNMENT: Final = 1024  # seconds of work; opening the repository is a fraction
_MAX_ASSIGNMENTS: Final = 64  # each lists all commits first: more would cost more than they save


class ShardAssignment(NamedTuple):
    """One of ``n_parts`` equal parts of a repository's shards."""

    part: int
    n_parts: int

    def select(self, shards: Sequence[_T]) -> Sequence[_T]:
        """Return the assigned shards: consecutive ones, which git reads faster.

        >>> ShardAssignment(1, 2).select("abcde")
        'cde'
        """
        n_shards = len(shards)
        begin, end = (n_shards * i // self.n_parts for i in (self.part, self.part + 1))
        return shards[begin:end]


def run_sharded(
    repositories: Sequence[RepositoryInfo],
    full_job: Callable[[RepositoryInfo], Call],
    partial_job: Callable[[RepositoryInfo, ShardAssignment], Call],
    n_workers: int,
    execution: ExecutionParams,
    description: str,
) -> Iterator[Any | Failure]:
    """Read every repository; large ones are first read in parts by several jobs.

    Args:
        repositories: Entries of ``repository.json``.
        full_job: Returns the job that reads a repository.
        partial_job: Returns the job that caches the assigned shards of a repository.
        n_workers: Processes of the local engine.
        execution: Engine to run on.
        description: Label of the progress bar.

    Returns:
        For each repository the result of its full job, or a :class:`Failure`; in order.
    """
    n_parts_of = [
        min(_MAX_ASSIGNMENTS, r["n_commits"] // COMMITS_PER_ASSIGNMENT) for r in repositories
    ]
    assignments = [
        (index, ShardAssignment(part, n))
        for index, n in enumerate(n_parts_of)
        if n > 1
        for part in range(n)
    ]
    # Largest first: the jobs that start last should be short.
    by_size = sorted(range(len(repositories)), key=lambda i: -repositories[i]["n_commits"])
    large = [index for index in by_size if n_parts_of[index] > 1]
    small = by_size[len(large) :]
    # Both rounds end with small repositories, which keeps the workers busy until their end.
    n_first = len(small) // 2 if large else len(small)

    def run(jobs: list[Call], weights: list[int], full: list[int]) -> list[Any]:
        return list(
            fan_out(
                [*jobs, *(full_job(repositories[index]) for index in full)],
                n_workers,
                execution,
                description,
                [*weights, *(repositories[index]["n_commits"] for index in full)],
            )
        )

    first = run(
        [partial_job(repositories[index], assignment) for index, assignment in assignments],
        [
            repositories[index]["n_commits"] // assignment.n_parts
            for index, assignment in assignments
        ],
        small[:n_first],
    )
    # A failed partial job is ignored: the full job meets the same error and reports it.
    second = run([], [], [*large, *small[n_first:]])
    results = dict(
        zip(
            [*small[:n_first], *large, *small[n_first:]],
            [*first[len(assignments) :], *second],
            strict=True,
        )
    )
    return (results[index] for index in range(len(repositories)))
