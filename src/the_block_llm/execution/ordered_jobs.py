"""Jobs on either engine, their results in the order of the jobs."""

from collections.abc import Iterator, Sequence
from typing import Any

from the_block_llm.execution.jobs import Call, Lost
from the_block_llm.execution.local_jobs import run_in_processes
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray


def run_in_order(
    jobs: Sequence[Call], n_processes: int, execution: ExecutionParams
) -> Iterator[Any | Lost]:
    """Run the jobs where ``execution`` says.

    Args:
        jobs: What to run; functions and arguments must be such that pickle can send them.
        n_processes: Of the local engine; 1 is this process alone.
        execution: Which engine.

    Yields:
        For each job its result, or what stands for it where its worker died each time.

    Raises:
        BlockError: What a job raised.
    """
    if execution.engine == "local":
        yield from run_in_processes(iter(jobs), max(1, min(n_processes, len(jobs))))
        return
    done: dict[int, Any] = {}
    following = 0
    for number, result in run_on_ray(jobs, execution):
        done[number] = result
        while following in done:
            yield done.pop(following)
            following += 1
