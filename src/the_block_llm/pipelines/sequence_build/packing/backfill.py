"""Backfill rows that have free tokens with the first tokens of long documents.

A chat is never split, so short rows often have free tokens that no other document fits into. The
first tokens of a document that is split anyway can be trained on there, since they need no
context. In the row that they come from they remain as context of the rest, so that row keeps its
length.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from the_block_llm.pipelines.sequence_build.packing.chunking import Chunk
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import Mask

_MIN_TARGETS: Final = 16  # of the moved tokens, and of those that remain


def backfill_rows(
    chunks: list[Chunk],
    rows: Sequence[list[int]],
    context_tokens: int,
    folders: Sequence[str],
    labels_masks: Sequence[Mask],
) -> list[int]:
    """Move the first tokens of long documents into rows that have free tokens.

    Args:
        chunks: The chunks of a document are consecutive. Each moved part is appended; in the
            chunk that it was part of, its tokens become context.
        rows: Indices of the chunks in each row; a moved part is added to the row that it fills.
        context_tokens: Capacity of a row.
        folders: Folder of each chunk's document: donors from the row's own folder come first.
        labels_masks: Targets of each chunk's document, shape ``(document tokens,)``.

    Returns:
        For each appended chunk the index of its donor.

    >>> chunks = [Chunk(0, 0, 0, 0, 80), Chunk(1, 0, 0, 0, 99), Chunk(1, 0, 40, 60, 120)]
    >>> rows, targets = [[0], [1], [2]], np.ones(120, np.bool_)
    >>> backfill_rows(chunks, rows, 100, [""] * 3, [targets] * 3)
    [1]
    >>> rows, [(chunk.start, chunk.end) for chunk in chunks]
    ([[0, 3], [1], [2]], [(0, 80), (20, 99), (60, 120), (0, 20)])
    """
    free_tokens = [context_tokens - sum(chunks[index].n_tokens for index in row) for row in rows]
    by_folder: dict[str, list[int]] = defaultdict(list)
    for index in reversed(_first_chunks(chunks)):
        by_folder[folders[index]].append(index)
    all_candidates = [index for folder in sorted(by_folder) for index in by_folder[folder]]
    donors: list[int] = []
    used: set[int] = set()
    # Most free tokens first: a candidate that is too short for one row is too short for all
    # that follow.
    for number in sorted(range(len(rows)), key=lambda number: -free_tokens[number]):
        row, free = rows[number], free_tokens[number]
        if free < _MIN_TARGETS:
            break
        for candidates in (by_folder[folders[row[0]]], all_candidates):
            while candidates and (
                candidates[-1] in used
                or np.count_nonzero(labels_masks[candidates[-1]][:free]) < _MIN_TARGETS
            ):
                candidates.pop()
            donor = candidates[-1] if candidates else None
            if donor is None or donor in row:
                continue
            chunk = chunks[donor]
            if np.count_nonzero(labels_masks[donor][free : chunk.end]) >= _MIN_TARGETS:
                used.add(donor)
                donors.append(donor)
                row.append(len(chunks))
                chunks.append(chunk._replace(end=free))
                chunks[donor] = chunk._replace(start=free)
                break
    return donors


def _first_chunks(chunks: Sequence[Chunk]) -> list[int]:
    """Return the indices of the first chunks of documents that have several."""
    return [
        index
        for index, (chunk, following) in enumerate(pairwise(chunks))
        if chunk.start == 0 and chunk.document == following.document
    ]
