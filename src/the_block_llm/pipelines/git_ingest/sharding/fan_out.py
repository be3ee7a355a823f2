"""Work on many repositories, of which none can stop the others."""

import errno
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.errors import BlockError, ParameterError, StorageError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.local_jobs import WorkerDiedError, run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.progress import disable_progress, progress_bar

_log = logging.getLogger(__name__)
# A second's work, of which Ray's share is then small.
_WEIGHT_A_TASK: Final = 400
_REPOSITORIES_A_TASK: Final = 8


@dataclass(frozen=True)
class Failed:
    """Stands for what a repository would have given, had it been readable."""

    reason: str


def one_by_one(
    jobs: Sequence[Call],
    n_workers: int,
    execution: ExecutionParams,
    description: str,
    weights: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Run the jobs, each about one repository, and give their results in order.

    Args:
        jobs: What to run.
        n_workers: Processes of the local engine.
        execution: Which engine.
        description: Of the progress bar.
        weights: What each counts there; 1 where not given.

    Returns:
        For each job its result, or :class:`Failed` where it failed.

    Raises:
        ParameterError: A parameter is wrong, for whichever repository.
        StorageError: There is no room to write, for whichever repository.
    """
    results: list[Any] = [None] * len(jobs)
    weights = weights or [1] * len(jobs)
    with progress_bar(description, sum(weights)) as bar:
        guarded = [(_guarded, job) for job in jobs]
        run = _locally(guarded, n_workers) if execution.engine == "local" else None
        for number, result in run or _on_ray(guarded, weights, execution):
            results[number] = Failed(result.reason) if isinstance(result, WorkerLost) else result
            bar.advance(weights[number])
    return iter(results)


def bundles(weights: Sequence[int]) -> list[range]:
    """Neighbours that are light enough to be one task together.

    >>> bundles([1024, 200, 200, 200, 1, 1])
    [range(0, 1), range(1, 3), range(3, 6)]
    """
    found: list[range] = []
    begin, weight = 0, 0
    for number, one in enumerate(weights):
        if number > begin and (
            weight + one > _WEIGHT_A_TASK or number - begin >= _REPOSITORIES_A_TASK
        ):
            found.append(range(begin, number))
            begin, weight = number, 0
        weight += one
    if begin < len(weights):
        found.append(range(begin, len(weights)))
    return found


def _on_ray(
    jobs: Sequence[Call], weights: Sequence[int], execution: ExecutionParams
) -> Iterator[tuple[int, Any]]:
    """Run the jobs, several small ones as one task: Ray takes some milliseconds for each."""
    together = bundles(weights)
    lost: list[int] = []
    tasks = ((_each, ([jobs[number] for number in bundle],)) for bundle in together)
    for at, answers in run_on_ray(tasks, execution):
        if not isinstance(answers, WorkerLost):
            yield from zip(together[at], answers, strict=True)
        elif len(together[at]) == 1:
            yield together[at].start, answers
        else:
            lost.extend(together[at])
    # One of them kills its worker; which one, only each of them alone can tell.
    for at, answer in run_on_ray((jobs[number] for number in lost), execution) if lost else ():
        yield lost[at], answer


def _each(jobs: Sequence[Call]) -> list[Any]:
    return [function(*arguments) for function, arguments in jobs]


def _locally(jobs: Sequence[Call], n_workers: int) -> Iterator[tuple[int, Any]]:
    done = 0
    while done < len(jobs):
        # No more processes than jobs: starting one costs more than reading a small repository.
        running = run_in_processes(iter(jobs[done:]), min(n_workers, len(jobs) - done))
        try:
            for result in running:
                yield done, result
                done += 1
        except WorkerDiedError as error:
            yield done, WorkerLost(str(error))
            done += 1


def _guarded(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        with disable_progress():
            return function(*arguments)
    except (ParameterError, StorageError):
        raise  # wrong or full for every repository
    except BlockError as error:
        return Failed(str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"There is no room left: {error}. Free some space, then run again; what was "
                "finished is kept."
            ) from error
        # Whatever a repository can provoke: it is told, and it stays that repository's alone.
        _log.exception("A repository could not be read")
        return Failed(f"{type(error).__name__}: {error}")
