"""Tokenize rendered documents into the table ``documents``, in batches of bounded size."""

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
from the_block_llm.pipelines.sequence_build.tokenization.curriculum import curriculum_stage
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import (
    DocumentTokenizer,
    Ids,
    TokenizedDocument,
)
from the_block_llm.pipelines.sequence_build.tokenization.token_cache import TokenCache
from the_block_llm.schemas import DOCUMENTS

_log = logging.getLogger(__name__)
# Large enough to keep every core busy, small enough to hold several times in memory.
_BATCH_CHARACTERS = 4 * 1024 * 1024


def document_batches(
    docs: Iterable[RenderedDocument],
    tokenizer: DocumentTokenizer,
    context_tokens: int,
    stage_tokens: Sequence[int] = (),
    token_cache_folder: Path | None = None,
) -> Iterator[pa.RecordBatch]:
    """Tokenize rendered documents into record batches of the schema ``DOCUMENTS``.

    Args:
        docs: In any order, which is kept.
        tokenizer: The profile's.
        context_tokens: Capacity of a row. A document that must not be split and is longer is
            replaced by its ``fallback``, if it has one.
        stage_tokens: Capacity of the rows of each curriculum stage.
        token_cache_folder: Cache of token ids of earlier runs; None: everything is tokenized.
    """
    with ExitStack() as stack:
        stack.enter_context(raise_gc_threshold())
        cache = token_cache_folder and stack.enter_context(
            TokenCache(token_cache_folder, tokenizer.backend)
        )
        yield from _tokenize(docs, tokenizer, context_tokens, stage_tokens, cache or None)


def _tokenize(
    docs: Iterable[RenderedDocument],
    tokenizer: DocumentTokenizer,
    context_tokens: int,
    stage_tokens: Sequence[int],
    cache: TokenCache | None,
) -> Iterator[pa.RecordBatch]:
    for batch, encodings in _encode_ahead(_batch_documents(docs, tokenizer), tokenizer, cache):
        documents = tokenizer.assemble(batch, encodings)
        for index, doc in enumerate(batch):
            if doc.fallback is not None and len(documents[index].input_ids) > context_tokens:
                batch[index] = replace_unencodable(doc.fallback, tokenizer.unknown_bytes)
                [documents[index]] = tokenizer.encode([batch[index]])
        yield _record_batch(batch, documents, stage_tokens)


def _encode_ahead(
    batches: Iterator[list[RenderedDocument]],
    tokenizer: DocumentTokenizer,
    cache: TokenCache | None,
) -> Iterator[tuple[list[RenderedDocument], list[Ids]]]:
    """Encode the next batch while the current one is assembled and written."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending: deque[tuple[list[RenderedDocument], Future[list[Ids]]]] = deque()
        for batch in batches:
            pending.append((batch, executor.submit(tokenizer.encode_texts, batch, cache)))
            if len(pending) > 1:
                ready, encodings = pending.popleft()
                yield ready, encodings.result()
        for ready, encodings in pending:
            yield ready, encodings.result()


def _batch_documents(
    docs: Iterable[RenderedDocument], tokenizer: DocumentTokenizer
) -> Iterator[list[RenderedDocument]]:
    batch: list[RenderedDocument] = []
    n_characters = n_changed = 0
    for doc in docs:
        if not doc.is_checked:
            raise ValueError(
                f"{doc.document_id} was not checked for facts of evaluation commits. Yield it from "
                "a method of Corpus, whose documents() checks every document."
            )
        encodable = replace_unencodable(doc, tokenizer.unknown_bytes)
        n_changed += encodable is not doc
        batch.append(encodable)
        n_characters += sum(len(segment.text) for segment in doc.segments)
        if n_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch
    if n_changed:
        _log.warning(
            "%s documents have characters that the tokenizer has no tokens for; these characters "
            "are replaced by U+FFFD", f"{n_changed:,}",
        )  # fmt: skip


def _record_batch(
    docs: Sequence[RenderedDocument],
    documents: Sequence[TokenizedDocument],
    stage_tokens: Sequence[int],
) -> pa.RecordBatch:
    lengths = np.array([len(document.input_ids) for document in documents], np.int32)
    columns = {
        "document_id": [doc.document_id for doc in docs],
        "kind": [doc.kind for doc in docs],
        "split": [doc.split for doc in docs],
        "source": [doc.source for doc in docs],
        "authored_at": pa.array(
            [doc.authored_at for doc in docs],
            DOCUMENTS.field("authored_at").type,
        ),
        "segments": _segments_column(docs),
        "input_ids": list_column([document.input_ids for document in documents]),
        "labels_mask": list_column([document.labels_mask for document in documents]),
        "n_tokens": lengths,
        "stage": [
            _stage(doc, int(n_tokens), stage_tokens)
            for doc, n_tokens in zip(docs, lengths, strict=True)
        ],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in DOCUMENTS], schema=DOCUMENTS
    )


def _segments_column(docs: Sequence[RenderedDocument]) -> pa.ListArray:
    """Return the column ``segments``, built without a dictionary for each segment."""
    column: pa.ListType = DOCUMENTS.field("segments").type
    segments = [segment for doc in docs for segment in doc.segments]
    values = {"text": [s.text for s in segments], "train": [s.train for s in segments]}
    fields = list(column.value_type)
    children = [pa.array(values[field.name], field.type) for field in fields]
    return pa.ListArray.from_arrays(
        _offsets([len(doc.segments) for doc in docs]),
        pa.StructArray.from_arrays(children, fields=fields),
        type=column,
    )


def _stage(doc: RenderedDocument, n_tokens: int, stage_tokens: Sequence[int]) -> int:
    # Only training documents have a curriculum.
    if not stage_tokens or doc.split != "train":
        return 0
    n_bytes = sum(len(segment.text.encode()) for segment in doc.segments)
    return curriculum_stage(n_tokens, n_bytes, stage_tokens)


def list_column(values: Sequence[np.ndarray]) -> pa.ListArray:
    """Return arrays of one dtype as a list column, without a Python object for each value."""
    offsets = _offsets([len(value) for value in values])
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values)))


def _offsets(lengths: Sequence[int]) -> pa.Int32Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.array(offsets)
