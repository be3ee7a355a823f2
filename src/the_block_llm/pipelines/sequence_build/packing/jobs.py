"""Rows of many windows, several windows at a time, here or on a cluster."""

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
from the_block_llm.pipelines.sequence_build.packing.repository_batches import temporary_folder
from the_block_llm.pipelines.sequence_build.packing.rows import pack_window
from the_block_llm.pipelines.sequence_build.packing.windows import Window
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import ROWS

_PART_BYTES: Final = 32 * 1024 * 1024  # held in memory, beside the window, by each process


@dataclass(frozen=True)
class WindowWork:
    """Packs a window; sent to whichever process does it."""

    documents: StorageLocation
    shape: RowShape
    token_bytes: np.ndarray[Any, np.dtype[np.int64]]

    def parts(self, window: Window, folder: StorageLocation) -> Sequence[StorageLocation]:
        """Write the rows of the window below ``folder``; returns the finished parts."""
        batches = pack_window(ParquetTable(self.documents), window, self.shape, self.token_bytes)
        # A task that is begun again writes beside what its predecessor left.
        name = uuid.uuid4().hex
        parts = save_table(folder / name, ROWS, batches, part_bytes=_PART_BYTES).parts
        trim_heap()
        return parts


def packed(
    documents: ParquetTable,
    windows: Sequence[Window],
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
    work_folder: StorageLocation | None,
    execution: ExecutionParams,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack every window; gives rows where there is one, else finished parts, in order.

    Args:
        documents: The table ``documents``.
        windows: Of one split.
        shape: Size of a row.
        token_bytes: Bytes of text that each token stands for, shape ``(vocabulary,)``.
        work_folder: Where parts lie until the table has them, see
            :func:`~the_block_llm.pipelines.sequence_build.packing.repository_batches.work_folder`.
        execution: Which engine. A single window is packed in this process.

    Raises:
        ExecutionError: A window killed its worker every time.
    """
    if len(windows) < 2:
        for window in windows:
            yield from pack_window(documents, window, shape, token_bytes)
        return
    work = WindowWork(documents.folder, shape, token_bytes)
    with temporary_folder(work_folder) as folder:
        jobs: list[Call] = [(work.parts, (window, folder)) for window in windows]
        for parts in ordered_map(jobs, execution, "Packing rows"):
            yield from parts
