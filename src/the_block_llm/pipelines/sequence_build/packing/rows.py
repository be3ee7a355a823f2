"""Pack a window of the table ``documents`` into rows: chunk, pack, extend, backfill.

Windows have a bounded size, so a corpus of any length is packed in the same memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.code.boundaries import ScopeHeaders, line_boundaries
from the_block_llm.pipelines.sequence_build.document import is_atomic
from the_block_llm.pipelines.sequence_build.packing.backfill import backfill_rows
from the_block_llm.pipelines.sequence_build.packing.chunking import (
    Chunk,
    chunk_document,
    chunks_with_targets,
    extend_chunks,
    last_target_position,
    token_boundary_strengths,
)
from the_block_llm.pipelines.sequence_build.packing.locality import folder_of, pack_by_locality
from the_block_llm.pipelines.sequence_build.packing.windows import Window
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import list_column
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import Ids, Mask
from the_block_llm.schemas import ROWS, DocumentKind

_BATCH_TOKENS: Final = 512 * 1024
_COLUMNS: Final = (
    "document_id", "kind", "split", "source", "segments", "input_ids", "labels_mask", "stage",
)  # fmt: skip


@dataclass(frozen=True)
class _Document:
    document_id: str
    input_ids: Ids
    labels_mask: Mask
    stage: int
    folder: str
    chunks: tuple[Chunk, ...]


def pack_window(
    documents: ParquetTable,
    window: Window,
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
) -> Iterator[pa.RecordBatch]:
    """Pack the documents of one window.

    Args:
        documents: The table ``documents``.
        window: Which of its rows. Training rows have the length of their curriculum stage.
        shape: Size of a row and of the overlap between chunks.
        token_bytes: Bytes of text in each token of the vocabulary, shape ``(vocabulary,)``.

    Yields:
        Batches of ``ROWS``. Chunks without a target are dropped, and so are documents that are
        longer than a row and must not be split; the report counts the latter.
    """
    shape = shape.of_stage(window.stage)
    yield from _pack([*_chunk_documents(documents, window, shape, token_bytes)], shape)


def _chunk_documents(
    documents: ParquetTable,
    window: Window,
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
) -> Iterator[_Document]:
    number = 0
    for start, batch in documents.batches_containing(
        "split", window.split, _COLUMNS, batch_rows=512, rows=window.rows
    ):
        is_wanted = pc.and_(
            pc.equal(batch["split"], window.split), pc.equal(batch["stage"], window.stage)
        )
        in_window = range(max(start, window.rows.start), min(start + len(batch), window.rows.stop))
        if len(in_window) < len(batch) or window.excluded is not None:
            is_wanted = pc.and_(is_wanted, pa.array(window.included(start, len(batch))))
        # Most batches have a single split, and filtering would copy all their ids.
        chosen = batch if pc.all(is_wanted).as_py() else batch.filter(is_wanted)
        ids, masks = _list_views(chosen["input_ids"]), _list_views(chosen["labels_mask"])
        kinds, sources = chosen["kind"].to_pylist(), chosen["source"].to_pylist()
        for row, document_id in enumerate(chosen["document_id"].to_pylist()):
            kind, source, n_tokens = kinds[row], sources[row], len(ids[row])
            if n_tokens <= shape.context_tokens:
                chunks = [Chunk(number, 0, 0, 0, n_tokens)]
            elif is_atomic(kind, document_id):
                continue  # counted in the report
            else:
                texts = _segment_texts(chosen["segments"], row)
                chunks = _chunk_long_document(
                    number, kind, source, texts, token_bytes[ids[row]], len(masks[row]), shape
                )
            trained = tuple(chunks_with_targets(chunks, masks[row]))
            if trained:
                # Texts are read only if the path is in them.
                segments = chosen["segments"][row].as_py() if kind == "commit" else ()
                folder = folder_of(kind, source, segments)
                # Copies: a slice would keep the whole batch in memory.
                yield _Document(
                    document_id, ids[row].copy(), masks[row].copy(), window.stage, folder, trained
                )
                number += 1


def _chunk_long_document(
    number: int,
    kind: DocumentKind,
    source: str,
    texts: Sequence[str],
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
    n_tokens: int,
    shape: RowShape,
) -> list[Chunk]:
    text = "".join(texts).encode()
    token_ends = np.cumsum(token_bytes)
    strengths = token_boundary_strengths(*line_boundaries(text, kind, source), token_ends)
    header_bytes = len(texts[0].encode())
    header_tokens = int(np.searchsorted(token_ends, header_bytes, side="left")) + 1
    token_starts = token_ends - token_bytes
    scope_headers = ScopeHeaders(text, kind, source)

    def scope_header_before(token: int) -> tuple[int, int]:
        start, end = scope_headers.header_before(int(token_ends[token - 1]))
        if start == end:
            return 0, 0
        first, last = token_starts.searchsorted((start, end))
        return int(first), int(last)

    return chunk_document(
        number,
        n_tokens,
        header_tokens,
        strengths,
        shape.context_tokens,
        shape.overlap_tokens,
        scope_header_before,
    )


def _pack(window: Sequence[_Document], shape: RowShape) -> Iterator[pa.RecordBatch]:
    pairs = [(document, chunk) for document in window for chunk in document.chunks]
    documents = [document for document, _ in pairs]
    rows = pack_by_locality(
        [chunk.n_tokens for _, chunk in pairs],
        [document.folder for document in documents],
        [len(document.chunks) > 1 for document in documents],
        shape.context_tokens,
    )
    chunks = extend_chunks(
        [chunk for _, chunk in pairs],
        rows,
        shape.context_tokens,
        [last_target_position(chunk, document.labels_mask) for document, chunk in pairs],
    )
    donors = backfill_rows(
        chunks,
        rows,
        shape.context_tokens,
        [document.folder for document in documents],
        [document.labels_mask for document in documents],
    )
    documents += [documents[donor] for donor in donors]
    batch: list[list[tuple[_Document, Chunk]]] = []
    batch_tokens = 0
    for row in rows:
        batch.append([(documents[index], chunks[index]) for index in row])
        batch_tokens += shape.context_tokens
        if batch_tokens >= _BATCH_TOKENS:
            yield _record_batch(batch)
            batch, batch_tokens = [], 0
    if batch:
        yield _record_batch(batch)


def _record_batch(rows: Sequence[Sequence[tuple[_Document, Chunk]]]) -> pa.RecordBatch:
    ids = [
        np.concatenate([part for document, chunk in row for part in _chunk_ids(document, chunk)])
        for row in rows
    ]
    masks = [
        np.concatenate([part for document, chunk in row for part in _chunk_mask(document, chunk)])
        for row in rows
    ]
    columns: dict[str, Any] = {
        "input_ids": list_column(ids),
        "labels_mask": list_column(masks),
        "segment_lengths": [[chunk.n_tokens for _, chunk in row] for row in rows],
        "document_ids": [[document.document_id for document, _ in row] for row in rows],
        "n_tokens": [len(row_ids) for row_ids in ids],
        "stage": [max(document.stage for document, _ in row) for row in rows],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in ROWS], schema=ROWS
    )


def _chunk_ids(document: _Document, chunk: Chunk) -> tuple[Ids, Ids, Ids]:
    ids = document.input_ids
    return (
        ids[: chunk.header_tokens],
        ids[slice(*chunk.scope_header)],
        ids[chunk.context_start : chunk.end],
    )


def _chunk_mask(document: _Document, chunk: Chunk) -> tuple[Mask, Mask]:
    context = np.zeros(chunk.n_tokens - (chunk.end - chunk.start), np.bool_)
    return context, document.labels_mask[chunk.start : chunk.end]


def _segment_texts(segments: pa.ListArray, row: int) -> list[str]:
    first, last = segments.offsets[row].as_py(), segments.offsets[row + 1].as_py()
    texts: list[str] = segments.values.field("text")[first:last].to_pylist()
    return texts


def _list_views(column: pa.ListArray) -> list[Any]:
    """Return the lists of a column as arrays that share its memory."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    return [values[start:end] for start, end in pairwise(offsets)]
