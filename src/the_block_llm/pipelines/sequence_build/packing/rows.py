"""The table ``documents`` to packed rows: cut, pack, fill up, write.

Documents are taken in windows of bounded size, so a corpus of any length is packed in the
same memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.code.boundaries import ScopeHeaders, line_boundaries
from the_block_llm.pipelines.sequence_build.document import is_atomic
from the_block_llm.pipelines.sequence_build.packing.backfill import lend_beginnings
from the_block_llm.pipelines.sequence_build.packing.chunking import (
    Piece,
    cut,
    fill_up,
    last_target,
    token_strength,
    without_targets,
)
from the_block_llm.pipelines.sequence_build.packing.locality import module_of, pack_by_module
from the_block_llm.pipelines.sequence_build.packing.windows import Window, windows_of
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import list_column
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import Ids, Mask
from the_block_llm.schemas import ROWS, DocumentKind, Split

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
    module: str
    pieces: tuple[Piece, ...]


def pack_split(
    documents: ParquetTable,
    split: Split,
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
    left_out: npt.NDArray[np.bool_] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Pack the documents of one side of the cut-off.

    Args:
        documents: The table ``documents``.
        split: Which side. Training rows have the length of their curriculum stage.
        shape: Size of a row and of the repeated context.
        token_bytes: Bytes of text that each token stands for, shape ``(vocabulary,)``.
        left_out: True for rows of the table that the mix has no room for, shape ``(rows,)``;
            none: it has room for all.

    Yields:
        Batches of the schema ``ROWS``, stage by stage. Pieces without a target are left out,
        and so are documents that must stay whole and are longer than a row.
    """
    for window in windows_of(documents, split, shape, left_out):
        yield from pack_window(documents, window, shape, token_bytes)


def pack_window(
    documents: ParquetTable,
    window: Window,
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
) -> Iterator[pa.RecordBatch]:
    """Pack the documents of one window; the rest as for :func:`pack_split`."""
    shape = shape.of_stage(window.stage)
    yield from _packed([*_cut_documents(documents, window, shape, token_bytes)], shape)


def _cut_documents(
    documents: ParquetTable,
    window: Window,
    shape: RowShape,
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
) -> Iterator[_Document]:
    number = 0
    for begin, batch in documents.batches_containing(
        "split", window.split, _COLUMNS, batch_rows=512, rows=window.rows
    ):
        wanted = pc.and_(
            pc.equal(batch["split"], window.split), pc.equal(batch["stage"], window.stage)
        )
        here = range(max(begin, window.rows.start), min(begin + len(batch), window.rows.stop))
        if len(here) < len(batch) or window.left_out is not None:
            wanted = pc.and_(wanted, pa.array(window.holds(begin, len(batch))))
        # Most batches are of one side, and filtering would copy all their ids.
        chosen = batch if pc.all(wanted).as_py() else batch.filter(wanted)
        ids, masks = _lists(chosen["input_ids"]), _lists(chosen["labels_mask"])
        kinds, sources = chosen["kind"].to_pylist(), chosen["source"].to_pylist()
        for row, document_id in enumerate(chosen["document_id"].to_pylist()):
            kind, source, n_tokens = kinds[row], sources[row], len(ids[row])
            if n_tokens <= shape.context_tokens:
                pieces = [Piece(number, 0, 0, 0, n_tokens)]
            elif is_atomic(kind, document_id):
                continue  # the report counts them
            else:
                texts = _texts(chosen["segments"], row)
                pieces = _cut_long(
                    number, kind, source, texts, token_bytes[ids[row]], len(masks[row]), shape
                )
            kept = tuple(without_targets(pieces, masks[row]))
            if kept:
                # Texts are only read where the path is in them.
                segments = chosen["segments"][row].as_py() if kind == "commit" else ()
                module = module_of(kind, source, segments)
                # Copies: a slice would keep the whole batch in memory.
                yield _Document(
                    document_id, ids[row].copy(), masks[row].copy(), window.stage, module, kept
                )
                number += 1


def _cut_long(
    number: int,
    kind: DocumentKind,
    source: str,
    texts: Sequence[str],
    token_bytes: np.ndarray[Any, np.dtype[np.int64]],
    n_tokens: int,
    shape: RowShape,
) -> list[Piece]:
    text = "".join(texts).encode()
    token_ends = np.cumsum(token_bytes)
    strength = token_strength(*line_boundaries(text, kind, source), token_ends)
    head_bytes = len(texts[0].encode())
    head_tokens = int(np.searchsorted(token_ends, head_bytes, side="left")) + 1
    token_starts = token_ends - token_bytes
    signs = ScopeHeaders(text, kind, source)

    def place_before(token: int) -> tuple[int, int]:
        begin, end = signs.header_before(int(token_ends[token - 1]))
        if begin == end:
            return 0, 0
        first, last = token_starts.searchsorted((begin, end))
        return int(first), int(last)

    return cut(
        number,
        n_tokens,
        head_tokens,
        strength,
        shape.context_tokens,
        shape.overlap_tokens,
        place_before,
    )


def _packed(window: Sequence[_Document], shape: RowShape) -> Iterator[pa.RecordBatch]:
    placed = [(document, piece) for document in window for piece in document.pieces]
    rows = pack_by_module(
        [piece.n_tokens for _, piece in placed],
        [document.module for document, _ in placed],
        [len(document.pieces) > 1 for document, _ in placed],
        shape.context_tokens,
    )
    filled = fill_up(
        [piece for _, piece in placed],
        rows,
        shape.context_tokens,
        [last_target(piece, document.labels_mask) for document, piece in placed],
    )
    documents = [document for document, _ in placed]
    lenders = lend_beginnings(
        filled,
        rows,
        shape.context_tokens,
        [document.module for document in documents],
        [document.labels_mask for document in documents],
    )
    documents += [documents[lender] for lender in lenders]
    batch: list[list[tuple[_Document, Piece]]] = []
    batch_tokens = 0
    for row in rows:
        batch.append([(documents[index], filled[index]) for index in row])
        batch_tokens += shape.context_tokens
        if batch_tokens >= _BATCH_TOKENS:
            yield _record_batch(batch)
            batch, batch_tokens = [], 0
    if batch:
        yield _record_batch(batch)


def _record_batch(rows: Sequence[Sequence[tuple[_Document, Piece]]]) -> pa.RecordBatch:
    ids = [
        np.concatenate([part for document, piece in row for part in _ids(document, piece)])
        for row in rows
    ]
    masks = [
        np.concatenate([part for document, piece in row for part in _mask(document, piece)])
        for row in rows
    ]
    columns: dict[str, Any] = {
        "input_ids": list_column(ids),
        "labels_mask": list_column(masks),
        "segment_lengths": [[piece.n_tokens for _, piece in row] for row in rows],
        "document_ids": [[document.document_id for document, _ in row] for row in rows],
        "n_tokens": [len(row_ids) for row_ids in ids],
        "stage": [max(document.stage for document, _ in row) for row in rows],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in ROWS], schema=ROWS
    )


def _ids(document: _Document, piece: Piece) -> tuple[Ids, Ids, Ids]:
    ids = document.input_ids
    return ids[: piece.head], ids[slice(*piece.place)], ids[piece.context : piece.end]


def _mask(document: _Document, piece: Piece) -> tuple[Mask, Mask]:
    repeated = np.zeros(piece.n_tokens - (piece.end - piece.begin), np.bool_)
    return repeated, document.labels_mask[piece.begin : piece.end]


def _texts(segments: pa.ListArray, row: int) -> list[str]:
    first, last = segments.offsets[row].as_py(), segments.offsets[row + 1].as_py()
    found: list[str] = segments.values.field("text")[first:last].to_pylist()
    return found


def _lists(column: pa.ListArray) -> list[Any]:
    """A column of lists as arrays that share its memory."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    return [values[start:end] for start, end in pairwise(offsets)]
