"""Run jobs as tasks of a Ray cluster, a bounded number at a time.

Ray provides processes, retries and nodes. Tasks exchange only paths and counts and write their
files where every node can read them. Running a job twice writes the same bytes, so a task whose
node died is simply run again on another one.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.params import ExecutionParams

_log = logging.getLogger(__name__)
_REFRESH_S: Final = 5.0  # how often the number of cores is read; nodes come and go


def run_on_ray(jobs: Iterable[Call], execution: ExecutionParams) -> Iterator[tuple[int, Any]]:
    """Run the jobs on the cluster and yield ``(number of the job, result)`` as they finish.

    Jobs are taken from the iterable only as fast as the cluster runs them, so even for an endless
    iterable neither the driver's memory nor the object store grows.

    Raises:
        ExecutionError: Ray is not installed, or the cluster cannot be reached.
        Exception: Whatever a job raised.
    """
    with _cluster(execution) as ray:
        task = ray.remote(num_cpus=1, max_retries=execution.retries, scheduling_strategy="SPREAD")(
            _run
        )
        numbers: dict[Any, int] = {}
        remaining = enumerate(jobs)
        limit = _TaskLimit(ray, 1 + execution.prefetch_tasks)
        try:
            while True:
                while len(numbers) < limit.current() and (next_job := next(remaining, None)):
                    number, job = next_job
                    numbers[task.remote(*job)] = number
                if not numbers:
                    return
                done, _ = ray.wait(list(numbers), num_returns=1, timeout=_REFRESH_S)
                for reference in done:
                    yield numbers.pop(reference), _result(ray, reference)
        finally:
            for reference in numbers:
                ray.cancel(reference, force=True)


def _run(function: Any, arguments: tuple[Any, ...]) -> Any:
    # A task has one core. Rust's thread pools would start a thread for each core of the node, in
    # every worker, and the tokenizer caches some megabytes of words in each of its threads.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    return function(*arguments)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Ray wraps the job's error; raise the original, without Ray's traceback.
        raise error.cause from None
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    ) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return WorkerLost(f"its worker died on every attempt: {reason}")


class _TaskLimit:
    """How many tasks may be submitted, by the current number of cores."""

    def __init__(self, ray: Any, tasks_per_core: int) -> None:
        self._ray = ray
        self._tasks_per_core = tasks_per_core
        self._cores = 0
        self._refreshed_at = -_REFRESH_S

    def current(self) -> int:
        if time.monotonic() - self._refreshed_at >= _REFRESH_S:
            self._cores = int(self._ray.cluster_resources().get("CPU", 0))
            self._refreshed_at = time.monotonic()
        # A cluster that autoscales from zero needs a task that requests its first node.
        return max(1, self._cores) * self._tasks_per_core


@contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Make a Ray that is started here listen on loopback only.

    On Linux it would listen on every address. On Windows and macOS this constant prevents that; an
    explicit loopback address is taken for that of another machine and ignored.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _cluster(execution: ExecutionParams) -> Iterator[Any]:
    """Connect to Ray, or start it; disconnect or stop it at the end."""
    # Ray sends usage statistics over the network unless this is set before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # noqa: PLC0415, an extra
    except ImportError as error:
        raise ExecutionError(
            "execution.engine=ray needs the package ray: pip install 'the_block_llm[ray]'. "
            "execution.engine=local needs no extra."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {
        "log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR,
    }  # fmt: skip
    if execution.address is None:
        options |= {
            "address": "local",
            "num_cpus": execution.cpus or None,
            "object_store_memory": execution.object_store_mb * 1024 * 1024,
            "include_dashboard": False,
        }
    else:
        options["address"] = execution.address
    path = os.environ.get("PYTHONPATH")
    # Workers of a Ray that is started here import this package from where this process did.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        with _on_loopback(ray) if execution.address is None else nullcontext():
            ray.init(**options)
    except Exception as error:
        where = execution.address or "on this machine"
        raise ExecutionError(
            f"Ray cannot be reached or started ({where}): {error}. Check execution.address, or use "
            "execution.engine=local, which needs no cluster."
        ) from error
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    _log.info("Ray: %s cores", int(ray.cluster_resources().get("CPU", 0)))
    try:
        yield ray
    finally:
        ray.shutdown()
