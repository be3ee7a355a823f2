"""MinHash signatures, LSH band hashes and line hashes of documents, in Parquet files.

They are computed once and compared as often as needed. Hashes are the same in every process, so
one process may read a repository and another compare it. A document takes some six hundred bytes
and eight for each line.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash

from the_block_llm.pipelines.sequence_build.dedup.inverted_index import expand_ranges
from the_block_llm.pipelines.sequence_build.dedup.shingling import (
    DocumentFeatures,
    extract_features,
)
from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.schemas import SPLITS, Split

_PERMUTATIONS: Final = 256  # standard error of the Jaccard estimate: about 0.03
_BANDS: Final = 64  # candidates from a similarity of about 0.35; the estimate then decides
_HASH_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_CHERRY_PICK: Final = re.compile(r"cherry[- ]picked from commit ([0-9a-f]{7,40})")
_BATCH_CHARACTERS: Final = 2 * 1024 * 1024

SIGNATURE_SCHEMA: Final = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        # The earlier commit that this one declares to revert or cherry-pick, and which of the two.
        pa.field("named_reason", pa.string()),
        pa.field("named", pa.string()),
        pa.field("whole", pa.int64(), nullable=False),  # hash of the text
        pa.field("lines", pa.list_(pa.int64()), nullable=False),  # hashes
        pa.field("n_new", pa.int32(), nullable=False),  # lines that a patch does not remove
        pa.field("has_words", pa.bool_(), nullable=False),  # has shingles
        pa.field("bands", pa.binary(4 * _BANDS), nullable=False),
        pa.field("signature", pa.binary(_PERMUTATIONS), nullable=False),
    ]
)


@dataclass(frozen=True)
class DocumentSignatures:
    """Hashes and MinHash signatures of ``n`` documents."""

    ids: npt.NDArray[np.object_]
    sources: Sequence[str]
    splits: npt.NDArray[np.uint8]
    """Index of each document's split in ``SPLITS``."""
    declared: Sequence[tuple[str, str] | None]
    """Reason (revert, cherry_pick) and sha of the earlier commit that a commit refers to."""
    text_hashes: npt.NDArray[np.int64]
    """Hash of the kind and the normalized text; for a completion pair also of its context."""
    line_hashes: npt.NDArray[np.int64]
    """Of the significant lines of all documents, shape ``(lines,)``; once for each document."""
    line_offsets: npt.NDArray[np.int64]
    """Lines ``[offsets[i], offsets[i + 1])`` belong to document ``i``, shape ``(n + 1,)``."""
    n_new_lines: npt.NDArray[np.int32]
    """How many lines are not removed by a patch; they come first."""
    has_shingles: npt.NDArray[np.bool_]
    band_hashes: npt.NDArray[np.uint32]
    """Hash of each LSH band of the signature, shape ``(n, bands)``."""
    minhashes: npt.NDArray[np.uint8]
    """MinHash signature, the lowest eight bits of each minimum, shape ``(n, permutations)``."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def concatenate(cls, batches: list["DocumentSignatures"]) -> "DocumentSignatures":
        """Concatenate batches; empties the list as it copies, to bound peak memory."""
        batches = batches or [cls.read(pa.RecordBatch.from_pylist([], SIGNATURE_SCHEMA))]
        columns: dict[str, Any] = {
            name: [getattr(batch, name) for batch in batches] for name in cls.__dataclass_fields__
        }
        batches.clear()
        n_lines = np.concatenate([np.diff(offsets) for offsets in columns.pop("line_offsets")])
        lists: dict[str, Any] = {
            name: [value for values in columns.pop(name) for value in values]
            for name in ("sources", "declared")
        }
        arrays: dict[str, Any] = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
        return cls(**arrays, **lists, line_offsets=np.concatenate([[0], np.cumsum(n_lines)]))

    def take(self, numbers: npt.NDArray[np.int64]) -> "DocumentSignatures":
        """Select documents by index."""
        first, last = self.line_offsets[numbers], self.line_offsets[numbers + 1]
        return DocumentSignatures(
            ids=self.ids[numbers],
            sources=[self.sources[number] for number in numbers],
            splits=self.splits[numbers],
            declared=[self.declared[number] for number in numbers],
            text_hashes=self.text_hashes[numbers],
            line_hashes=self.line_hashes[expand_ranges(first, last)],
            line_offsets=np.concatenate([[0], np.cumsum(last - first)]),
            n_new_lines=self.n_new_lines[numbers],
            has_shingles=self.has_shingles[numbers],
            band_hashes=self.band_hashes[numbers],
            minhashes=self.minhashes[numbers],
        )

    def without_removed_lines(self) -> "DocumentSignatures":
        """Drop the lines that patches remove."""
        starts = self.line_offsets[:-1]
        line_hashes = self.line_hashes[expand_ranges(starts, starts + self.n_new_lines)]
        offsets = np.concatenate([[0], np.cumsum(self.n_new_lines, dtype=np.int64)])
        return replace(self, line_hashes=line_hashes, line_offsets=offsets)

    @classmethod
    def read(cls, batch: pa.RecordBatch) -> "DocumentSignatures":
        """Read a record batch of ``SIGNATURE_SCHEMA``."""
        lines = batch["lines"]
        offsets = lines.offsets.to_numpy().astype(np.int64)
        reasons, shas = batch["named_reason"].to_pylist(), batch["named"].to_pylist()
        return cls(
            ids=np.array(batch["document_id"].to_pylist(), object),
            sources=batch["source"].to_pylist(),
            splits=split_indices(batch["split"]),
            declared=[
                None if reason is None else (reason, sha)
                for reason, sha in zip(reasons, shas, strict=True)
            ],
            text_hashes=batch["whole"].to_numpy(),
            line_hashes=lines.values.to_numpy()[offsets[0] : offsets[-1]],
            line_offsets=offsets - offsets[0],
            n_new_lines=batch["n_new"].to_numpy(),
            has_shingles=batch["has_words"].to_numpy(zero_copy_only=False),
            band_hashes=_from_binary(batch["bands"], np.uint32),
            minhashes=_from_binary(batch["signature"], np.uint8),
        )


def signature_batches(
    documents: Iterable[tuple[History, RenderedDocument]],
) -> Iterator[pa.RecordBatch]:
    """Compute the signatures of documents, each given with the history of its repository.

    Yields:
        Batches of ``SIGNATURE_SCHEMA``, in the order of the documents.
    """
    batch: list[tuple[History, RenderedDocument]] = []
    n_characters = 0
    for history, doc in documents:
        batch.append((history, doc))
        n_characters += sum(len(segment.text) for segment in doc.segments)
        if n_characters >= _BATCH_CHARACTERS:
            yield _record_batch(batch)
            batch, n_characters = [], 0
    if batch:
        yield _record_batch(batch)


def split_indices(splits: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the index of each split in ``SPLITS``."""
    index_of = {split: index for index, split in enumerate(SPLITS)}
    return np.array([index_of[split] for split in splits.to_pylist()], np.uint8)


def _record_batch(documents: Sequence[tuple[History, RenderedDocument]]) -> pa.RecordBatch:
    features = [extract_features(doc) for _, doc in documents]
    lines = [_ordered_lines(one) for one in features]
    n_lines = np.fromiter(map(len, lines), np.int64, len(lines))
    line_hashes = _hash_texts([line for of_document in lines for line in of_document])
    declared = [_declared_origin(doc, history) for history, doc in documents]
    minhashes = np.array(
        RMinHash.digests_from_token_sets([one.shingles for one in features], _PERMUTATIONS, 1),
        np.uint32,
    ).reshape(-1, _PERMUTATIONS)
    keyed_texts = [
        f"{document.kind} {document.context_text if document.is_completion_pair else ''} "
        f"{one.normalized_text}"
        for (_, document), one in zip(documents, features, strict=True)
    ]
    columns: dict[str, Any] = {
        "document_id": [doc.document_id for _, doc in documents],
        "kind": [doc.kind for _, doc in documents],
        "split": [doc.split for _, doc in documents],
        "source": [doc.source for _, doc in documents],
        "named_reason": [origin and origin[0] for origin in declared],
        "named": [origin and origin[1] for origin in declared],
        "whole": _hash_texts(keyed_texts),
        "lines": pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(n_lines)]), pa.int32()), pa.array(line_hashes)
        ),
        "n_new": [len(one.new_lines) for one in features],
        "has_words": [bool(one.shingles) for one in features],
        "bands": _to_binary(_hash_bands(minhashes)),
        "signature": _to_binary(minhashes.astype(np.uint8)),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in SIGNATURE_SCHEMA],
        schema=SIGNATURE_SCHEMA,
    )


def _ordered_lines(features: DocumentFeatures) -> list[str]:
    """Return new lines, then removed ones, each sorted: the same order in every process."""
    if features.lines is features.new_lines:
        return sorted(features.lines)
    return [*sorted(features.new_lines), *sorted(features.lines - features.new_lines)]


def _hash_texts(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    # SipHash with a fixed key, over all texts in one call; Python's own differs by process.
    from pandas.util import hash_array  # noqa: PLC0415, takes half a second to import

    values = np.empty(len(texts), object)
    values[:] = texts
    return hash_array(values, categorize=False).view(np.int64)


def _hash_bands(minhashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Hash each LSH band with its number, shape ``(n, bands)``; collisions are rare."""
    words = minhashes.view(np.uint64).reshape(len(minhashes), _BANDS, -1)
    keys = np.broadcast_to(np.arange(1, _BANDS + 1, dtype=np.uint64), words.shape[:2])
    for column in range(words.shape[2]):
        keys = (keys ^ words[:, :, column]) * _HASH_MULTIPLIER
        keys ^= keys >> np.uint64(29)
    return (keys >> np.uint64(32)).astype(np.uint32)


def _to_binary(rows: npt.NDArray[Any]) -> pa.Array:
    n_bytes = rows.itemsize * rows.shape[1]
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(n_bytes), len(rows), [None, data])


def _from_binary(column: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    row_bytes = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    data = data[column.offset * row_bytes : (column.offset + len(column)) * row_bytes]
    return data.view(dtype).reshape(len(column), row_bytes // np.dtype(dtype).itemsize)


def _declared_origin(doc: RenderedDocument, history: History) -> tuple[str, str] | None:
    """Return the earlier commit that an evaluation commit declares to revert or cherry-pick."""
    commit = None if doc.split == "train" else history.commits.get(doc.source)
    if commit is None:
        return None
    earlier: Sequence[Split] = ("train", "validation") if doc.split == "held_out" else ("train",)
    if commit.reverts and history.find_split(commit.reverts) in earlier:
        return "revert", commit.reverts
    for match in _CHERRY_PICK.finditer(commit.body):
        for sha, split in history.find_by_prefix(match[1]):
            if split in earlier:
                return "cherry_pick", sha
    return None
