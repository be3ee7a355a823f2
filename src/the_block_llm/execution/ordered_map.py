"""Run jobs on either engine, with results in the order of the jobs."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.local_jobs import run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.progress import progress_bar

# Each takes some hundred megabytes, and a corpus of any size must fit in 1.5 GB.
_DEFAULT_PROCESSES: Final = 2


def ordered_map(
    jobs: Sequence[Call], execution: ExecutionParams, description: str
) -> Iterator[Any]:
    """Run the jobs and yield their results in order.

    Args:
        jobs: What to run; a job may run twice, if its node dies.
        execution: The engine.
        description: Of the progress bar.

    Raises:
        ExecutionError: The worker of a job died on every attempt.
        BlockError: A job raised this.
    """
    with progress_bar(description, len(jobs)) as bar:
        if execution.engine == "local":
            wanted = execution.cpus or min(_DEFAULT_PROCESSES, os.cpu_count() or 1)
            n_processes = max(1, min(wanted, len(jobs)))
            for result in run_in_processes(jobs, n_processes):
                bar.advance()
                yield result
            return
        finished: dict[int, Any] = {}
        next_number = 0
        for number, result in run_on_ray(jobs, execution):
            if isinstance(result, WorkerLost):
                raise ExecutionError(
                    f"{description}, job {number + 1} of {len(jobs)}: {result.reason}. Give the "
                    "nodes more memory, or raise execution.retries."
                )
            finished[number] = result
            bar.advance()
            while next_number in finished:
                yield finished.pop(next_number)
                next_number += 1
