"""Drafts to the table ``documents``: tokenised, in batches of bounded size."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from the_block_llm.memory import raise_gc_threshold
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, replace_unencodable
from the_block_llm.pipelines.sequence_build.tokenization.curriculum import stage_of
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import (
    DocumentTokenizer,
    Ids,
    TokenisedDocument,
)
from the_block_llm.pipelines.sequence_build.tokenization.token_cache import TokenisedTexts
from the_block_llm.schemas import DOCUMENTS

_log = logging.getLogger(__name__)
# Enough texts to keep every core busy, little enough to hold several times over.
_BATCH_CHARACTERS = 4 * 1024 * 1024


def document_batches(
    drafts: Iterable[RenderedDocument],
    tokenizer: DocumentTokenizer,
    context_tokens: int,
    stage_tokens: Sequence[int] = (),
    token_cache_folder: Path | None = None,
) -> Iterator[pa.RecordBatch]:
    """Tokenise drafts and put them into record batches of the schema ``DOCUMENTS``.

    Args:
        drafts: In any order, which is kept.
        tokenizer: The profile's.
        context_tokens: Capacity of a row. A document that must stay whole and is longer gives
            way to the one it brings along; one that brings none stays as it is.
        stage_tokens: Capacity of the rows of each curriculum stage.
        token_cache_folder: Where ids of earlier runs are; none: everything is tokenised anew.
    """
    with ExitStack() as stack:
        stack.enter_context(raise_gc_threshold())
        earlier = token_cache_folder and stack.enter_context(
            TokenisedTexts(token_cache_folder, tokenizer.backend)
        )
        yield from _batches(drafts, tokenizer, context_tokens, stage_tokens, earlier or None)


def _batches(
    drafts: Iterable[RenderedDocument],
    tokenizer: DocumentTokenizer,
    context_tokens: int,
    stage_tokens: Sequence[int],
    earlier: TokenisedTexts | None,
) -> Iterator[pa.RecordBatch]:
    for batch, encodings in _encoded_ahead(_batched(drafts, tokenizer), tokenizer, earlier):
        documents = tokenizer.assemble(batch, encodings)
        for at, draft in enumerate(batch):
            if draft.fallback is not None and len(documents[at].input_ids) > context_tokens:
                batch[at] = replace_unencodable(draft.fallback, tokenizer.unknown_bytes)
                [documents[at]] = tokenizer.encode([batch[at]])
        yield _record_batch(batch, documents, stage_tokens)


def _encoded_ahead(
    batches: Iterator[list[RenderedDocument]],
    tokenizer: DocumentTokenizer,
    earlier: TokenisedTexts | None,
) -> Iterator[tuple[list[RenderedDocument], list[Ids]]]:
    """Tokenise one batch while the one before it is put together and written."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        waiting: deque[tuple[list[RenderedDocument], Future[list[Ids]]]] = deque()
        for batch in batches:
            waiting.append((batch, worker.submit(tokenizer.encode_texts, batch, earlier)))
            if len(waiting) > 1:
                ready, encodings = waiting.popleft()
                yield ready, encodings.result()
        for ready, encodings in waiting:
            yield ready, encodings.result()


def _batched(
    drafts: Iterable[RenderedDocument], tokenizer: DocumentTokenizer
) -> Iterator[list[RenderedDocument]]:
    batch: list[RenderedDocument] = []
    characters = n_changed = 0
    for draft in drafts:
        written = replace_unencodable(draft, tokenizer.unknown_bytes)
        n_changed += written is not draft
        batch.append(written)
        characters += sum(len(segment.text) for segment in draft.segments)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
    if n_changed:
        _log.warning(
            "%s documents hold characters that the tokenizer has no tokens for; they are "
            "written as U+FFFD", f"{n_changed:,}",
        )  # fmt: skip


def _record_batch(
    drafts: Sequence[RenderedDocument],
    documents: Sequence[TokenisedDocument],
    stage_tokens: Sequence[int],
) -> pa.RecordBatch:
    lengths = np.array([len(document.input_ids) for document in documents], np.int32)
    columns = {
        "document_id": [draft.document_id for draft in drafts],
        "kind": [draft.kind for draft in drafts],
        "split": [draft.split for draft in drafts],
        "source": [draft.source for draft in drafts],
        "authored_at": pa.array(
            [draft.authored_at for draft in drafts], DOCUMENTS.field("authored_at").type
        ),
        "segments": _segments(drafts),
        "input_ids": list_column([document.input_ids for document in documents]),
        "labels_mask": list_column([document.labels_mask for document in documents]),
        "n_tokens": lengths,
        "stage": [
            _stage(draft, int(n_tokens), stage_tokens)
            for draft, n_tokens in zip(drafts, lengths, strict=True)
        ],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in DOCUMENTS], schema=DOCUMENTS
    )


def _segments(drafts: Sequence[RenderedDocument]) -> pa.ListArray:
    """The column ``segments``, without a dictionary a segment."""
    column: pa.ListType = DOCUMENTS.field("segments").type
    every = [segment for draft in drafts for segment in draft.segments]
    values = {"text": [s.text for s in every], "train": [s.train for s in every]}
    fields = list(column.value_type)
    children = [pa.array(values[field.name], field.type) for field in fields]
    return pa.ListArray.from_arrays(
        _offsets([len(draft.segments) for draft in drafts]),
        pa.StructArray.from_arrays(children, fields=fields),
        type=column,
    )


def _stage(draft: RenderedDocument, n_tokens: int, stage_tokens: Sequence[int]) -> int:
    # Only what is learned has a course to follow.
    if not stage_tokens or draft.split != "train":
        return 0
    n_bytes = sum(len(segment.text.encode()) for segment in draft.segments)
    return stage_of(n_tokens, n_bytes, stage_tokens)


def list_column(values: Sequence[np.ndarray]) -> pa.ListArray:
    """Arrays of one type as a column of lists, without a Python object a value."""
    offsets = _offsets([len(value) for value in values])
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values)))


def _offsets(lengths: Sequence[int]) -> pa.Int32Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.array(offsets)
