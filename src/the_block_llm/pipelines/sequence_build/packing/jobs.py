"""Pack windows in parallel, in local processes or on a cluster."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.jobs import Call
from the_block_llm.execution.ordered_map import ordered_map
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.memory import trim_heap
from the_block_llm.pipelines.sequence_build.documents.repository_batches import temporary_folder
from the_block_llm.pipelines.sequence_build.packing.rows import pack_window
from the_block_llm.pipelines.sequence_build.packing.windows import Window
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import ROWS

_PART_BYTES: Final = 32 * 1024 * 1024  # buffered by each process, in addition to the window


@dataclass(frozen=True)
class PackJob:
    """Packs one window; sent to the worker that runs it."""

    documents: StorageLocation
    shape: RowShape
    token_bytes: np.ndarray[Any, np.dtype[np.int64]]

    def run(self, window: Window, folder: StorageLocation) -> Sequence[StorageLocation]:
        """Write the rows of the window below ``folder``.

        Returns:
            The finished Parquet files.
        """
        batches = pack_window(ParquetTable(self.documents), window, self.shape, self.token_bytes)
        # A retry must not overwrite the files of the attempt before it.
        name = uuid.uuid4().hex
        parts = save_table(folder / name, ROWS, batches, part_bytes=_PART_BYTES).parts
        trim_heap()
        return parts


def pack_windows(
    documents: ParquetTable,
    windows: Sequence[Window],
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
    work_folder: StorageLocation | None,
    execution: ExecutionParams,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack the windows of one split.

    Args:
        documents: The table ``documents``.
        windows: Of one split.
        shape: Size of a row. Training rows have the length of their curriculum stage.
        token_bytes: Bytes of text in each token of the vocabulary, shape ``(vocabulary,)``.
        work_folder: Folder for the jobs' output, see
            :func:`~the_block_llm.pipelines.sequence_build.documents.repository_batches.resolve_work_folder`.
        execution: The engine. A single window is packed in this process.

    Yields:
        Batches of ``ROWS`` for a single window, else finished Parquet files; in order.

    Raises:
        ExecutionError: The worker of a window died on every attempt.
    """
    if len(windows) < 2:
        for window in windows:
            yield from pack_window(documents, window, shape, token_bytes)
        return
    job = PackJob(documents.folder, shape, token_bytes)
    with temporary_folder(work_folder) as folder:
        jobs: list[Call] = [(job.run, (window, folder)) for window in windows]
        for parts in ordered_map(jobs, execution, "Packing rows"):
            yield from parts
