"""Every document's words against those that are held back, a bounded number of these at a time.

Which held-back documents are compared together depends on the documents alone, each part is
judged by itself, and so the same is found wherever and by how many it is done.
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
from the_block_llm.pipelines.sequence_build.dedup.leak_check import Leak, LeakCheck
from the_block_llm.pipelines.sequence_build.dedup.signatures import (
    WORDED,
    Worded,
    sides_of,
    worded_batches,
)
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.pipelines.sequence_build.history.commits import History

# Some 150 MB, and nearly as much again while they are indexed.
_LINES_AT_ONCE: Final = 4_000_000
_DOCUMENTS_AT_ONCE: Final = 60_000
_BATCH_ROWS: Final = 4096


@dataclass(frozen=True)
class Noted:
    """The words of some repositories' documents, on disk."""

    parts: Sequence[StorageLocation]
    """Of the schema ``WORDED``."""
    dropped: Counter[str]
    """Sources that no document was made of, by reason."""


def note_words(
    drafts: Iterable[tuple[History, RenderedDocument | Dropped]], folder: StorageLocation
) -> Noted:
    """Write down what documents say, below ``folder``."""
    dropped: Counter[str] = Counter()

    def made() -> Iterator[tuple[History, RenderedDocument]]:
        for history, draft in drafts:
            if isinstance(draft, RenderedDocument):
                yield history, draft
            else:
                dropped[draft.reason] += 1

    noted = Noted(save_table(folder, WORDED, worded_batches(made())).parts, dropped)
    trim_heap()
    return noted


def stretches(parts: Sequence[StorageLocation]) -> list[tuple[int, int]]:
    """Held-back documents that are compared together, as stretches of their numbers."""
    n_lines = [
        batch["n_new"].to_numpy()[sides_of(batch["split"]) != 0].astype(np.int64)
        for batch in batches(parts, ["split", "n_new"])
    ]
    ends = np.cumsum(np.concatenate([np.empty(0, np.int64), *n_lines]))
    borders = [0]
    while borders[-1] < len(ends):
        before = int(ends[borders[-1] - 1]) if borders[-1] else 0
        full = int(np.searchsorted(ends, before + _LINES_AT_ONCE, side="right"))
        borders.append(min(len(ends), borders[-1] + _DOCUMENTS_AT_ONCE, max(full, borders[-1] + 1)))
    return list(pairwise(borders))


def compare(
    parts: Sequence[StorageLocation], first: int, last: int, similarity: float
) -> list[Leak]:
    """Compare all documents with the held-back ones numbered ``[first, last)``."""
    check = LeakCheck(_held_back(parts, first, last), similarity)
    for part in parts:
        # What sorting, or the part before, has let go is as much as all that is kept.
        trim_heap()
        for batch in batches([part]):
            check.see(Worded.read(batch))
    leaks = check.leaks()
    del check
    trim_heap()
    return leaks


def _held_back(parts: Sequence[StorageLocation], first: int, last: int) -> Iterator[Worded]:
    number = 0
    for part in parts:
        sides = np.concatenate(
            [np.empty(0, np.uint8), *(sides_of(b["split"]) for b in batches([part], ["split"]))]
        )
        n_held_back = int(np.count_nonzero(sides))
        if first < number + n_held_back and number < last:
            for batch in batches([part]):
                own = np.flatnonzero(sides_of(batch["split"]))
                numbers = number + np.arange(len(own))
                yield Worded.read(batch).take(own[(first <= numbers) & (numbers < last)])
                number += len(own)
            trim_heap()
        else:
            number += n_held_back


def batches(
    parts: Sequence[StorageLocation], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of finished parts, some at a time."""
    for part in parts:
        with open_parquet(part) as reader:
            yield from reader.iter_batches(_BATCH_ROWS, columns=columns and list(columns))
