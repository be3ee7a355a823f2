"""What documents say, in numbers: made once, and compared as often as needed.

Texts, lines and wording become hashes that are the same in every process, so that one reads a
repository and another compares; a document takes some six hundred bytes and eight for each line.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash

from the_block_llm.pipelines.sequence_build.dedup.inverted_index import spread
from the_block_llm.pipelines.sequence_build.dedup.shingling import Wording, wording
from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.schemas import SPLITS, Split

_PERMUTATIONS: Final = 256  # the estimate is within 0.03 of the truth, two times in three
_BANDS: Final = 64  # candidates from a likeness of about 0.35; the estimate then decides
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_PICKED: Final = re.compile(r"cherry[- ]picked from commit ([0-9a-f]{7,40})")
_BATCH_CHARACTERS: Final = 2 * 1024 * 1024

WORDED: Final = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("named_reason", pa.string()),
        pa.field("named", pa.string()),
        pa.field("whole", pa.int64(), nullable=False),
        pa.field("lines", pa.list_(pa.int64()), nullable=False),
        pa.field("n_new", pa.int32(), nullable=False),
        pa.field("has_words", pa.bool_(), nullable=False),
        pa.field("bands", pa.binary(4 * _BANDS), nullable=False),
        pa.field("signature", pa.binary(_PERMUTATIONS), nullable=False),
    ]
)


@dataclass(frozen=True)
class Worded:
    """Some documents, ``n`` of them, by what they say."""

    ids: npt.NDArray[np.object_]
    sources: Sequence[str]
    sides: npt.NDArray[np.uint8]
    """Place of each one's side in train, validation, held_out."""
    named: Sequence[tuple[str, str] | None]
    """By which reason and which earlier commit a commit gives itself away."""
    whole: npt.NDArray[np.int64]
    """Hash of kind and text, white space aside; of one that completes a text, with that."""
    lines: npt.NDArray[np.int64]
    """Hashes of the telling lines of all, shape ``(lines,)``; each once a document."""
    starts: npt.NDArray[np.int64]
    """Where the lines of each begin, and where those of the last end, shape ``(n + 1,)``."""
    n_new: npt.NDArray[np.int32]
    """How many of its lines are not what a patch takes away; they come first."""
    has_words: npt.NDArray[np.bool_]
    bands: npt.NDArray[np.uint32]
    """Hashes of the bands of its signature, shape ``(n, bands)``."""
    signatures: npt.NDArray[np.uint8]
    """Lowest eight bits of the least hashes of its runs of three words, ``(n, permutations)``."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def together(cls, some: list["Worded"]) -> "Worded":
        """All documents of several; ``some`` is emptied meanwhile, so that little stands twice."""
        some = some or [cls.read(pa.RecordBatch.from_pylist([], WORDED))]
        columns: dict[str, Any] = {
            name: [getattr(one, name) for one in some] for name in cls.__dataclass_fields__
        }
        some.clear()
        n_lines = np.concatenate([np.diff(starts) for starts in columns.pop("starts")])
        lists: dict[str, Any] = {
            name: [value for values in columns.pop(name) for value in values]
            for name in ("sources", "named")
        }
        arrays: dict[str, Any] = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
        return cls(**arrays, **lists, starts=np.concatenate([[0], np.cumsum(n_lines)]))

    def take(self, numbers: npt.NDArray[np.int64]) -> "Worded":
        """Some of the documents, by their numbers."""
        first, last = self.starts[numbers], self.starts[numbers + 1]
        return Worded(
            ids=self.ids[numbers],
            sources=[self.sources[number] for number in numbers],
            sides=self.sides[numbers],
            named=[self.named[number] for number in numbers],
            whole=self.whole[numbers],
            lines=self.lines[spread(first, last)],
            starts=np.concatenate([[0], np.cumsum(last - first)]),
            n_new=self.n_new[numbers],
            has_words=self.has_words[numbers],
            bands=self.bands[numbers],
            signatures=self.signatures[numbers],
        )

    def without_old_lines(self) -> "Worded":
        """The same without the lines that patches take away."""
        ends = self.starts[:-1] + self.n_new
        starts = np.concatenate([[0], np.cumsum(self.n_new, dtype=np.int64)])
        return replace(self, lines=self.lines[spread(self.starts[:-1], ends)], starts=starts)

    @classmethod
    def read(cls, batch: pa.RecordBatch) -> "Worded":
        """Out of a batch of the schema ``WORDED``."""
        lists = batch["lines"]
        starts = lists.offsets.to_numpy().astype(np.int64)
        reasons, sources = batch["named_reason"].to_pylist(), batch["named"].to_pylist()
        return cls(
            ids=np.array(batch["document_id"].to_pylist(), object),
            sources=batch["source"].to_pylist(),
            sides=sides_of(batch["split"]),
            named=[
                None if reason is None else (reason, source)
                for reason, source in zip(reasons, sources, strict=True)
            ],
            whole=batch["whole"].to_numpy(),
            lines=lists.values.to_numpy()[starts[0] : starts[-1]],
            starts=starts - starts[0],
            n_new=batch["n_new"].to_numpy(),
            has_words=batch["has_words"].to_numpy(zero_copy_only=False),
            bands=_fixed(batch["bands"], np.uint32),
            signatures=_fixed(batch["signature"], np.uint8),
        )


def worded_batches(drafts: Iterable[tuple[History, RenderedDocument]]) -> Iterator[pa.RecordBatch]:
    """Put documents, each with the history of its repository, into numbers.

    Yields:
        Batches of the schema ``WORDED``, in the order of the documents.
    """
    some: list[tuple[History, RenderedDocument]] = []
    n_characters = 0
    for history, draft in drafts:
        some.append((history, draft))
        n_characters += sum(len(segment.text) for segment in draft.segments)
        if n_characters >= _BATCH_CHARACTERS:
            yield _record_batch(some)
            some, n_characters = [], 0
    if some:
        yield _record_batch(some)


def worded(drafts: Iterable[RenderedDocument], history: History) -> Worded:
    """The same of a few documents at once, all of one repository."""
    return Worded.read(_record_batch([(history, draft) for draft in drafts]))


def sides_of(splits: pa.Array) -> npt.NDArray[np.uint8]:
    """The place of each side in train, validation, held_out."""
    place = {split: number for number, split in enumerate(SPLITS)}
    return np.array([place[split] for split in splits.to_pylist()], np.uint8)


def _record_batch(drafts: Sequence[tuple[History, RenderedDocument]]) -> pa.RecordBatch:
    wordings = [wording(draft) for _, draft in drafts]
    lines = [_ordered(one) for one in wordings]
    n_lines = np.fromiter(map(len, lines), np.int64, len(lines))
    hashes = _hashes([line for some in lines for line in some])
    named = [_named_source(draft, history) for history, draft in drafts]
    signatures = np.array(
        RMinHash.digests_from_token_sets([one.shingles for one in wordings], _PERMUTATIONS, 1),
        np.uint32,
    ).reshape(-1, _PERMUTATIONS)
    wholes = [
        f"{draft.kind} {draft.context_text if draft.is_completion_pair else ''} {one.whole}"
        for (_, draft), one in zip(drafts, wordings, strict=True)
    ]
    columns: dict[str, Any] = {
        "document_id": [draft.document_id for _, draft in drafts],
        "kind": [draft.kind for _, draft in drafts],
        "split": [draft.split for _, draft in drafts],
        "source": [draft.source for _, draft in drafts],
        "named_reason": [one and one[0] for one in named],
        "named": [one and one[1] for one in named],
        "whole": _hashes(wholes),
        "lines": pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(n_lines)]), pa.int32()), pa.array(hashes)
        ),
        "n_new": [len(one.new_lines) for one in wordings],
        "has_words": [bool(one.shingles) for one in wordings],
        "bands": _binary(_band_keys(signatures)),
        "signature": _binary(signatures.astype(np.uint8)),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in WORDED], schema=WORDED
    )


def _ordered(one: Wording) -> list[str]:
    """What is new first; in an order that is the same in every process."""
    if one.lines is one.new_lines:
        return sorted(one.lines)
    return [*sorted(one.new_lines), *sorted(one.lines - one.new_lines)]


def _hashes(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    # SipHash with a fixed key, over all texts in one call; Python's own differs by process.
    from pandas.util import hash_array  # noqa: PLC0415, takes half a second to import

    values = np.empty(len(texts), object)
    values[:] = texts
    return hash_array(values, categorize=False).view(np.int64)


def _band_keys(signatures: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A hash of each band, shape ``(n, bands)``; two bands seldom share one, by chance."""
    halves = signatures.view(np.uint64).reshape(len(signatures), _BANDS, -1)
    keys = np.broadcast_to(np.arange(1, _BANDS + 1, dtype=np.uint64), halves.shape[:2])
    for column in range(halves.shape[2]):
        keys = (keys ^ halves[:, :, column]) * _MIX
        keys ^= keys >> np.uint64(29)
    return (keys >> np.uint64(32)).astype(np.uint32)


def _binary(rows: npt.NDArray[Any]) -> pa.Array:
    n_bytes = rows.itemsize * rows.shape[1]
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(n_bytes), len(rows), [None, data])


def _fixed(column: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    data = data[column.offset * width : (column.offset + len(column)) * width]
    return data.view(dtype).reshape(len(column), width // np.dtype(dtype).itemsize)


def _named_source(draft: RenderedDocument, history: History) -> tuple[str, str] | None:
    """The earlier commit that a held-back commit says it undoes or repeats."""
    commit = None if draft.split == "train" else history.commits.get(draft.source)
    if commit is None:
        return None
    earlier: Sequence[Split] = ("train", "validation") if draft.split == "held_out" else ("train",)
    if commit.reverts and history.find_split(commit.reverts) in earlier:
        return "revert", commit.reverts
    for match in _PICKED.finditer(commit.body):
        for sha, split in history.find_by_prefix(match[1]):
            if split in earlier:
                return "cherry_pick", sha
    return None
