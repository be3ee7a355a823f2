"""Documents of many repositories, a group of repositories at a time, here or on a cluster.

Which repositories make a group depends on their sizes alone, and each group leaves parts of the
table ``documents`` of its own; so the table holds the same bytes wherever the groups were done.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_table import ParquetTable, save_table, write_text_atomically
from the_block_llm.errors import ExecutionError
from the_block_llm.execution.jobs import Call, WorkerLost
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.memory import trim_heap
from the_block_llm.progress import progress_bar
from the_block_llm.schemas import DOCUMENTS

# A task reads all commits before it renders its own, and starting one loads a tokenizer.
_COMMITS_A_GROUP: Final = 4000


def groups_of(each: Sequence[Mapping[str, Any]]) -> list[range]:
    """Neighbours of together some thousand commits, by their numbers in ``each``.

    >>> groups_of([{"n_commits": n} for n in (3000, 3000, 9000, 1)])
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    groups: list[range] = []
    begin, n_commits = 0, 0
    for number, facts in enumerate(each):
        n_commits += facts.get("n_commits", 0)
        if n_commits >= _COMMITS_A_GROUP:
            groups.append(range(begin, number + 1))
            begin, n_commits = number + 1, 0
    if begin < len(each):
        groups.append(range(begin, len(each)))
    return groups


@dataclass(frozen=True)
class GroupWork:
    """Renders the documents of a group; sent to whichever process does it."""

    batches: Callable[..., Iterator[pa.RecordBatch]]
    """A module's function of the group's range, the screening, and ``arguments``."""
    arguments: tuple[Any, ...]

    def parts(
        self, members: range, screening: StorageLocation, folder: StorageLocation
    ) -> Sequence[StorageLocation]:
        """Write the documents of the group below ``folder``; returns the finished parts."""
        found = json.loads(screening.read_text(encoding="utf-8"))
        batches = self.batches(members, found, *self.arguments)
        # A task that is begun again writes beside what its predecessor left.
        parts = save_table(folder / uuid.uuid4().hex, DOCUMENTS, batches).parts
        trim_heap()
        return parts


def in_groups(
    work: GroupWork,
    groups: Sequence[range],
    screening: Mapping[str, Any],
    work_folder: StorageLocation | None,
    execution: ExecutionParams,
) -> Iterator[StorageLocation]:
    """Render every group and give the finished parts, in the order of the groups.

    Args:
        work: How a group is rendered.
        groups: See :func:`groups_of`.
        screening: Which documents must not be used.
        work_folder: Where parts lie until the table has them; with Ray it must be one that
            every node sees. None: a temporary folder of this machine.
        execution: Which engine.

    Raises:
        ExecutionError: A group killed its worker every time.
    """
    with (
        temporary_folder(work_folder) as folder,
        progress_bar("Rendering documents", len(groups)) as bar,
    ):
        screened = folder / "screening.json"
        write_text_atomically(screened, json.dumps(dict(screening)))
        jobs: list[Call] = [(work.parts, (members, screened, folder)) for members in groups]
        if execution.engine == "local":
            # One after the other: the tokenizer takes every core by itself.
            for function, arguments in jobs:
                yield from function(*arguments)
                bar.advance()
            return
        done: dict[int, Sequence[StorageLocation]] = {}
        following = 0
        for number, parts in run_on_ray(jobs, execution):
            if isinstance(parts, WorkerLost):
                raise ExecutionError(
                    f"The documents of repositories {groups[number].start + 1} to "
                    f"{groups[number].stop} cannot be rendered: {parts.reason}. Give the nodes "
                    "more memory, or raise execution.retries."
                )
            done[number] = parts
            bar.advance()
            while following in done:
                yield from done.pop(following)
                following += 1


def work_folder(
    tables: ParquetTable, chosen: str | None, execution: ExecutionParams
) -> StorageLocation | None:
    """Where parts lie until their table is whole.

    Args:
        tables: One that git_ingest made. On a cluster every node sees where it lies, so where
            that is an object store, nodes need no folder in common.
        chosen: The parameter ``sequence_build.work_folder``.
        execution: Which engine.
    """
    if execution.engine == "ray" and isinstance(tables.folder, StorePath):
        return tables.folder.parent / ".parts"
    return None if chosen is None else Path(chosen)


@contextmanager
def temporary_folder(work_folder: StorageLocation | None) -> Iterator[StorageLocation]:
    """A folder below ``work_folder``, or of this machine's own, that is removed in the end."""
    if work_folder is None:
        with TemporaryDirectory(prefix="documents-") as name:
            yield Path(name)
        return
    folder = work_folder / f"documents-{uuid.uuid4().hex[:8]}"
    if isinstance(folder, StorePath):
        try:
            yield folder
        finally:
            folder.remove_tree()
        return
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
