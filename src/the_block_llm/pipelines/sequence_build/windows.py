"""Documents that are packed together: runs of the table, of bounded size.

Which documents make a window depends on the table alone, and no row holds pieces of two; so
windows can be packed in any order, by anybody, and make the same rows.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow.compute as pc

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.sequence_build.drafts import must_stay_whole
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import Split

_WINDOW_TOKENS: Final = 16 * 1024 * 1024  # 80 MB of ids and targets, packed at a time


@dataclass(frozen=True)
class Window:
    """The documents of one split and curriculum stage within a run of the table."""

    split: Split
    stage: int
    rows: range
    """Of the table ``documents``; it may hold others in between."""
    left_out: frozenset[str]
    """Ids of those that the mix has no room for."""


@dataclass
class _Open:
    rows: list[int] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    tokens: int = 0

    def close(self, split: Split, stage: int) -> Window:
        return Window(
            split, stage, range(self.rows[0], self.rows[-1] + 1), frozenset(self.left_out)
        )


def windows_of(
    documents: ParquetParts, split: Split, shape: RowShape, left_out: Set[str] = frozenset()
) -> list[Window]:
    """Divide the documents of a split.

    Args:
        documents: The table ``documents``; only its short columns are read.
        split: Which side of the cut-off.
        shape: Of the rows; a document that must stay whole and is longer than one is in none.
        left_out: Ids of documents that the mix has no room for.

    Returns:
        Windows stage by stage, each in the order of the table.
    """
    stages = range(1, len(shape.stage_tokens) + 1) if split == "train" else ()
    capacity = {stage: shape.of_stage(stage).context_tokens for stage in stages or (0,)}
    closed: dict[int, list[Window]] = {stage: [] for stage in capacity}
    open_: dict[int, _Open] = {stage: _Open() for stage in capacity}
    begin = 0
    for batch in documents.batches(["document_id", "kind", "split", "stage", "n_tokens"], 65_536):
        found = np.flatnonzero(pc.equal(batch["split"], split).to_numpy(zero_copy_only=False))
        chosen = batch.take(found)
        ids, kinds = chosen["document_id"].to_pylist(), chosen["kind"].to_pylist()
        lengths, of_stage = chosen["n_tokens"].to_pylist(), chosen["stage"].to_pylist()
        for at, row in enumerate(found.tolist()):
            stage = of_stage[at]
            if stage not in capacity:
                continue
            window = open_[stage]
            if ids[at] in left_out:
                window.left_out.add(ids[at])
                continue
            if lengths[at] > capacity[stage] and must_stay_whole(kinds[at], ids[at]):
                continue
            # The first and the last of them are all that counts.
            window.rows[1:] = [begin + row]
            window.tokens += lengths[at]
            if window.tokens >= _WINDOW_TOKENS:
                closed[stage].append(window.close(split, stage))
                open_[stage] = _Open()
        begin += batch.num_rows
    for stage, window in open_.items():
        if window.rows:
            closed[stage].append(window.close(split, stage))
    return [window for stage in capacity for window in closed[stage]]
