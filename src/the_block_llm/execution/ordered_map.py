"""Jobs on either engine, their results in the order of the jobs."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.local_jobs import run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.progress import progress_bar

# Each takes some hundred megabytes, and a corpus of any size is to be made in less than 1.5 GB.
_PROCESSES: Final = 2


def ordered_map(
    jobs: Sequence[Call], execution: ExecutionParams, description: str
) -> Iterator[Any]:
    """Run the jobs and give their results in order.

    Args:
        jobs: What to run; each may be run twice, where a node dies.
        execution: Which engine.
        description: Of the progress bar.

    Raises:
        ExecutionError: A job killed its worker every time.
        BlockError: A job raised this.
    """
    with progress_bar(description, len(jobs)) as bar:
        if execution.engine == "local":
            wanted = execution.cpus or min(_PROCESSES, os.cpu_count() or 1)
            n_processes = max(1, min(wanted, len(jobs)))
            for result in run_in_processes(jobs, n_processes):
                bar.advance()
                yield result
            return
        done: dict[int, Any] = {}
        following = 0
        for number, result in run_on_ray(jobs, execution):
            if isinstance(result, WorkerLost):
                raise ExecutionError(
                    f"{description}, job {number + 1} of {len(jobs)}: {result.reason}. Give the "
                    "nodes more memory, or raise execution.retries."
                )
            done[number] = result
            bar.advance()
            while following in done:
                yield done.pop(following)
                following += 1
