"""Work on many repositories, of which none can stop the others."""

import errno
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from the_block_llm.errors import BlockError, ParameterError, StorageError
from the_block_llm.execution.jobs import Call, Lost
from the_block_llm.execution.local_jobs import WorkerEndedError, run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.progress import ProgressBar, progress_bar, without_bars

_log = logging.getLogger(__name__)


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
    total = len(jobs) if weights is None else sum(weights)
    with progress_bar(description, total) as bar:
        guarded = [(_guarded, job) for job in jobs]
        run = _locally(guarded, n_workers) if execution.engine == "local" else None
        for number, result in run or run_on_ray(guarded, execution):
            results[number] = Failed(result.reason) if isinstance(result, Lost) else result
            _count(bar, 1 if weights is None else weights[number])
    return iter(results)


def _count(bar: ProgressBar, weight: int) -> None:
    bar.advance(weight)


def _locally(jobs: Sequence[Call], n_workers: int) -> Iterator[tuple[int, Any]]:
    done = 0
    while done < len(jobs):
        # No more processes than jobs: starting one costs more than reading a small repository.
        running = run_in_processes(iter(jobs[done:]), min(n_workers, len(jobs) - done))
        try:
            for result in running:
                yield done, result
                done += 1
        except WorkerEndedError as error:
            yield done, Lost(str(error))
            done += 1


def _guarded(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        with without_bars():
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
