"""Render documents of many repositories, a batch of repositories at a time.

Batches depend on the sizes of the repositories alone, and each writes its own parts of the table
``documents``, so the table has the same bytes for any engine and number of workers.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.datasets.report_files import read_report, write_report
from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.locks.leases import leased_temporary_folder
from the_block_llm.memory import trim_heap
from the_block_llm.progress import progress_bar
from the_block_llm.schemas import DOCUMENTS

# A job reads all commits before it renders its own, and loads a tokenizer at its start.
_COMMITS_PER_BATCH: Final = 4000


def batch_repositories(repositories: Sequence[Mapping[str, Any]]) -> list[range]:
    """Group consecutive repositories, by index, into batches of some thousand commits.

    >>> batch_repositories([{"n_commits": n} for n in (3000, 3000, 9000, 1)])
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    batches: list[range] = []
    start, n_commits = 0, 0
    for index, repository in enumerate(repositories):
        n_commits += repository.get("n_commits", 0)
        if n_commits >= _COMMITS_PER_BATCH:
            batches.append(range(start, index + 1))
            start, n_commits = index + 1, 0
    if start < len(repositories):
        batches.append(range(start, len(repositories)))
    return batches


@dataclass(frozen=True)
class RenderJob:
    """Renders the documents of a batch; sent to the worker that runs it."""

    render: Callable[..., Iterator[pa.RecordBatch]]
    """A module-level function of the batch, the screening, and ``arguments``."""
    arguments: tuple[Any, ...]

    def run(
        self, repositories: range, screening: StorageLocation, folder: StorageLocation
    ) -> Sequence[StorageLocation]:
        """Write the documents of the batch below ``folder``.

        Returns:
            The finished Parquet files.
        """
        screened = read_report(screening)
        batches = self.render(repositories, screened, *self.arguments)
        # A retry must not overwrite the files of the attempt before it.
        parts = save_table(folder / uuid.uuid4().hex, DOCUMENTS, batches).parts
        trim_heap()
        return parts


def render_in_batches(
    job: RenderJob,
    batches: Sequence[range],
    screening: Mapping[str, Any],
    work_folder: StorageLocation | None,
    execution: ExecutionParams,
) -> Iterator[StorageLocation]:
    """Render every batch.

    Args:
        job: How a batch is rendered.
        batches: See :func:`batch_repositories`.
        screening: Which documents to exclude.
        work_folder: Folder for the jobs' output; with Ray it must be one that every node can
            access. None: a temporary folder of this machine.
        execution: The engine.

    Yields:
        Finished Parquet files, in the order of the batches.

    Raises:
        ExecutionError: The worker of a batch died on every attempt.
    """
    with (
        temporary_folder(work_folder) as folder,
        progress_bar("Rendering documents", len(batches)) as bar,
    ):
        screening_file = folder / "screening.json"
        write_report(screening_file, dict(screening))
        jobs: list[Call] = [(job.run, (batch, screening_file, folder)) for batch in batches]
        if execution.engine == "local":
            # Sequentially: the tokenizer already uses every core.
            for function, arguments in jobs:
                yield from function(*arguments)
                bar.advance()
            return
        finished: dict[int, Sequence[StorageLocation]] = {}
        next_number = 0
        for number, parts in run_on_ray(jobs, execution):
            if isinstance(parts, WorkerLost):
                raise ExecutionError(
                    f"The documents of repositories {batches[number].start + 1} to "
                    f"{batches[number].stop} cannot be rendered: {parts.reason}. Give the nodes "
                    "more memory, or raise execution.retries."
                )
            finished[number] = parts
            bar.advance()
            while next_number in finished:
                yield from finished.pop(next_number)
                next_number += 1


def resolve_work_folder(
    tables: ParquetTable, configured: str | None, execution: ExecutionParams
) -> StorageLocation | None:
    """Return the folder for files of jobs whose table is not complete yet.

    Args:
        tables: A table of git_ingest. On a cluster, if it is in an object store, the files are
            written there too, so nodes need no shared folder.
        configured: The parameter ``sequence_build.work_folder``.
        execution: The engine.

    Returns:
        The folder; None for a temporary folder of this machine.
    """
    if execution.engine == "ray" and isinstance(tables.folder, StorePath):
        return tables.folder.parent / ".parts"
    return None if configured is None else Path(configured)


@contextmanager
def temporary_folder(work_folder: StorageLocation | None) -> Iterator[StorageLocation]:
    """Create a folder, in ``work_folder`` or the system temporary folder; remove it at the end."""
    if work_folder is None:
        with TemporaryDirectory(prefix="documents-") as name:
            yield Path(name)
        return
    if isinstance(work_folder, StorePath):
        remote_folder = work_folder / f"documents-{uuid.uuid4().hex[:8]}"
        try:
            yield remote_folder
        finally:
            remote_folder.remove_tree()
        return
    with leased_temporary_folder(work_folder, "documents") as folder:
        yield folder
