"""Drafts to the table ``documents``: tokenised, in batches of bounded size."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from the_block_llm.pipelines.sequence_build.drafts import Draft
from the_block_llm.pipelines.sequence_build.tokens import DocumentTokenizer, TokenisedDocument
from the_block_llm.schemas import DOCUMENTS

# Enough texts to keep every core busy, little enough to hold several times over.
_BATCH_CHARACTERS = 4 * 1024 * 1024


def document_batches(
    drafts: Iterable[Draft], tokenizer: DocumentTokenizer, context_tokens: int
) -> Iterator[pa.RecordBatch]:
    """Tokenise drafts and put them into record batches of the schema ``DOCUMENTS``.

    A chat that is longer than a row is left out: a question is never cut from its answer.
    """
    for batch, encodings in _encoded_ahead(_batched(drafts), tokenizer):
        documents = tokenizer.assemble(batch, encodings)
        kept = [
            (draft, document)
            for draft, document in zip(batch, documents, strict=True)
            if draft.kind != "chat" or len(document.input_ids) <= context_tokens
        ]
        if kept:
            yield _record_batch([draft for draft, _ in kept], [document for _, document in kept])


def _encoded_ahead(
    batches: Iterator[list[Draft]], tokenizer: DocumentTokenizer
) -> Iterator[tuple[list[Draft], list[Any]]]:
    """Tokenise one batch while the one before it is put together and written."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        waiting: deque[tuple[list[Draft], Future[list[Any]]]] = deque()
        for batch in batches:
            waiting.append((batch, worker.submit(tokenizer.encode_texts, batch)))
            if len(waiting) > 1:
                ready, encodings = waiting.popleft()
                yield ready, encodings.result()
        for ready, encodings in waiting:
            yield ready, encodings.result()


def _batched(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    batch: list[Draft] = []
    characters = 0
    for draft in drafts:
        batch.append(draft)
        characters += sum(len(segment.text) for segment in draft.segments)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _record_batch(
    drafts: Sequence[Draft], documents: Sequence[TokenisedDocument]
) -> pa.RecordBatch:
    segments = [
        [{"text": segment.text, "train": segment.train} for segment in draft.segments]
        for draft in drafts
    ]
    lengths = np.array([len(document.input_ids) for document in documents], np.int32)
    columns = {
        "document_id": [draft.document_id for draft in drafts],
        "kind": [draft.kind for draft in drafts],
        "split": [draft.split for draft in drafts],
        "source": [draft.source for draft in drafts],
        "authored_at": pa.array(
            [draft.authored_at for draft in drafts], DOCUMENTS.field("authored_at").type
        ),
        "segments": pa.array(segments, DOCUMENTS.field("segments").type),
        "input_ids": list_column([document.input_ids for document in documents]),
        "labels_mask": list_column([document.labels_mask for document in documents]),
        "n_tokens": lengths,
        "stage": np.zeros(len(drafts), np.int16),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in DOCUMENTS], schema=DOCUMENTS
    )


def list_column(values: Sequence[np.ndarray]) -> pa.ListArray:
    """Arrays of one type as a column of lists, without a Python object a value."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
