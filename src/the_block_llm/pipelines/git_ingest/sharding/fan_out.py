"""Runs one job per repository, in processes or on Ray; a failed job does not stop the others."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.errors import ParameterError, StorageError, user_error_cause
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.local_jobs import WorkerDiedError, run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.os_errors import affects_every_path, explain
from the_block_llm.progress import disable_progress, progress_bar

_log = logging.getLogger(__name__)
# About a second of work, of which Ray's overhead is then a small fraction.
_MAX_TASK_WEIGHT: Final = 400
_MAX_TASK_JOBS: Final = 8


@dataclass(frozen=True)
class Failure:
    """Result of a job that failed."""

    reason: str


def fan_out(
    jobs: Sequence[Call],
    n_workers: int,
    execution: ExecutionParams,
    description: str,
    weights: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Run the jobs, one per repository, and return their results in order.

    Args:
        jobs: Functions and their arguments.
        n_workers: Processes of the local engine.
        execution: Engine to run on.
        description: Label of the progress bar.
        weights: Progress units of each job; 1 each by default.

    Returns:
        For each job its result, or a :class:`Failure`.

    Raises:
        ParameterError: A parameter is wrong, which affects every repository.
        StorageError: The disk is full or not usable, which affects every repository.
    """
    results: list[Any] = [None] * len(jobs)
    weights = weights or [1] * len(jobs)
    with progress_bar(description, sum(weights)) as bar:
        guarded = [(_run_guarded, job) for job in jobs]
        local = _run_locally(guarded, n_workers) if execution.engine == "local" else None
        for index, result in local or _run_on_ray(guarded, weights, execution):
            results[index] = Failure(result.reason) if isinstance(result, WorkerLost) else result
            bar.advance(weights[index])
    return iter(results)


def group_jobs(weights: Sequence[int]) -> list[range]:
    """Group consecutive jobs into tasks of limited weight.

    >>> group_jobs([1024, 200, 200, 200, 1, 1])
    [range(0, 1), range(1, 3), range(3, 6)]
    """
    groups: list[range] = []
    begin, task_weight = 0, 0
    for index, weight in enumerate(weights):
        if index > begin and (
            task_weight + weight > _MAX_TASK_WEIGHT or index - begin >= _MAX_TASK_JOBS
        ):
            groups.append(range(begin, index))
            begin, task_weight = index, 0
        task_weight += weight
    if begin < len(weights):
        groups.append(range(begin, len(weights)))
    return groups


def _run_on_ray(
    jobs: Sequence[Call], weights: Sequence[int], execution: ExecutionParams
) -> Iterator[tuple[int, Any]]:
    """Run several small jobs as one task: Ray adds some milliseconds per task."""
    groups = group_jobs(weights)
    lost: list[int] = []
    tasks = ((_run_all, ([jobs[index] for index in group],)) for group in groups)
    for task_index, results in run_on_ray(tasks, execution):
        group = groups[task_index]
        if not isinstance(results, WorkerLost):
            yield from zip(group, results, strict=True)
        elif len(group) == 1:
            yield group.start, results
        else:
            lost.extend(group)
    # One job of a lost task kills its worker; run them separately to find out which.
    for lost_index, result in run_on_ray((jobs[i] for i in lost), execution) if lost else ():
        yield lost[lost_index], result


def _run_all(jobs: Sequence[Call]) -> list[Any]:
    return [function(*arguments) for function, arguments in jobs]


def _run_locally(jobs: Sequence[Call], n_workers: int) -> Iterator[tuple[int, Any]]:
    n_done = 0
    while n_done < len(jobs):
        # No more processes than jobs: starting one costs more than reading a small repository.
        results = run_in_processes(iter(jobs[n_done:]), min(n_workers, len(jobs) - n_done))
        try:
            for result in results:
                yield n_done, result
                n_done += 1
        except WorkerDiedError as error:
            yield n_done, WorkerLost(str(error))
            n_done += 1


def _run_guarded(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        with disable_progress():
            return function(*arguments)
    except (ParameterError, StorageError):
        raise  # affects every repository
    except Exception as error:
        if affects_every_path(error):
            raise StorageError(
                f"The repositories cannot be read: {explain(error)} Then run again; finished "
                "shards are kept."
            ) from error
        if (user_error := user_error_cause(error)) is not None:
            return Failure(str(user_error))
        # Anything else may be caused by the repository: log it and fail this repository only.
        _log.exception("A repository could not be read")
        return Failure(f"{type(error).__name__}: {error}")
