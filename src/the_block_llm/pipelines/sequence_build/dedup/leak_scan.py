"""Scan all documents for leaks, a bounded number of evaluation documents at a time.

Evaluation documents are those of the splits validation and held_out. Which of them are scanned
together depends on the documents alone and each is judged by itself, so the result is the same
for any number of workers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_files import open_parquet
from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.memory import trim_heap
from the_block_llm.pipelines.sequence_build.dedup.minhash import (
    SIGNATURE_SCHEMA,
    DocumentSignatures,
    signature_batches,
    split_indices,
)
from the_block_llm.pipelines.sequence_build.dedup.near_duplicates import Leak, LeakCheck
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.pipelines.sequence_build.history.commits import History

# Some 150 MB, and nearly as much again while the index is built.
_MAX_LINES_PER_SCAN: Final = 4_000_000
_MAX_DOCUMENTS_PER_SCAN: Final = 60_000
_BATCH_ROWS: Final = 4096


@dataclass(frozen=True)
class SignatureFiles:
    """The signatures of some repositories' documents, on disk."""

    parts: Sequence[StorageLocation]
    """Parquet files of ``SIGNATURE_SCHEMA``."""
    dropped: Counter[str]
    """Number of sources that no document was made of, by reason."""


def write_signatures(
    documents: Iterable[tuple[History, RenderedDocument | Dropped]], folder: StorageLocation
) -> SignatureFiles:
    """Compute the signatures of documents and write them below ``folder``."""
    dropped: Counter[str] = Counter()

    def rendered() -> Iterator[tuple[History, RenderedDocument]]:
        for history, doc in documents:
            if isinstance(doc, RenderedDocument):
                yield history, doc
            else:
                dropped[doc.reason] += 1

    table = save_table(folder, SIGNATURE_SCHEMA, signature_batches(rendered()))
    files = SignatureFiles(table.parts, dropped)
    trim_heap()
    return files


def scan_ranges(parts: Sequence[StorageLocation]) -> list[tuple[int, int]]:
    """Divide the evaluation documents, numbered in order, into ranges to scan together."""
    n_lines = [
        batch["n_new"].to_numpy()[split_indices(batch["split"]) != 0].astype(np.int64)
        for batch in read_batches(parts, ["split", "n_new"])
    ]
    line_ends = np.cumsum(np.concatenate([np.empty(0, np.int64), *n_lines]))
    n_documents = len(line_ends)
    bounds = [0]
    while (start := bounds[-1]) < n_documents:
        n_before = int(line_ends[start - 1]) if start else 0
        full = int(np.searchsorted(line_ends, n_before + _MAX_LINES_PER_SCAN, side="right"))
        bounds.append(min(n_documents, start + _MAX_DOCUMENTS_PER_SCAN, max(full, start + 1)))
    return list(pairwise(bounds))


def scan_for_leaks(
    parts: Sequence[StorageLocation], first: int, last: int, similarity: float
) -> list[Leak]:
    """Compare all documents with the evaluation documents numbered ``[first, last)``."""
    check = LeakCheck(_read_evaluation_documents(parts, first, last), similarity)
    for part in parts:
        # Indexing and scanning a part free about as much memory as the index takes.
        trim_heap()
        for batch in read_batches([part]):
            check.scan(DocumentSignatures.read(batch))
    leaks = check.leaks()
    del check
    trim_heap()
    return leaks


def _read_evaluation_documents(
    parts: Sequence[StorageLocation], first: int, last: int
) -> Iterator[DocumentSignatures]:
    number = 0
    for part in parts:
        splits = np.concatenate(
            [
                np.empty(0, np.uint8),
                *(split_indices(batch["split"]) for batch in read_batches([part], ["split"])),
            ]
        )
        n_evaluation = int(np.count_nonzero(splits))
        if first < number + n_evaluation and number < last:
            for batch in read_batches([part]):
                rows = np.flatnonzero(split_indices(batch["split"]))
                numbers = number + np.arange(len(rows))
                chosen = rows[(first <= numbers) & (numbers < last)]
                yield DocumentSignatures.read(batch).take(chosen)
                number += len(rows)
            trim_heap()
        else:
            number += n_evaluation


def read_batches(
    parts: Sequence[StorageLocation], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the rows of Parquet files, a bounded number at a time."""
    for part in parts:
        with open_parquet(part) as reader:
            yield from reader.iter_batches(_BATCH_ROWS, columns=columns and list(columns))
