"""Markdown page with sampled segments of every type of document."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.inspect.row_view import plain_text, render_segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MAX_LINES: Final = 36  # per sample; the rest is counted
_FENCE: Final = "````"
_DESCRIPTIONS: Final = {
    "file": "A file of the snapshot, or a part of it that fits a row.",
    "file-in-the-middle": "A part of a file with its middle moved to the end.",
    "file-part": "A part of a file without a boundary at which to take out a middle.",
    "file-folder": "The beginning of a file, and its folder.",
    "commit": "A commit or merge: message and changes.",
    "commit-files": "Paths that one commit changed.",
    "commit-message": "A patch and its message.",
    "code-file": "A definition that a commit added, and the path of the file.",
    "chat/why": "Why a change was made.",
    "chat/together": "What else changes with a file.",
    "chat/history": "The history of a file.",
    "chat/file": "The purpose of a file.",
    "chat/definition": "The purpose of a type or function.",
    "chat/where": "The file in which something is defined.",
    "chat/section": "The content of a documentation section.",
    "chat/outline": "What a file defines.",
    "chat/folder": "What a folder contains.",
    "chat/depends-on": "What a file uses.",
    "chat/used-by": "What uses a file.",
}


@dataclass(frozen=True)
class _SegmentLocation:
    row: int
    segment: int


def sample_page(
    rows: ParquetTable,
    tokenizer: "PreTrainedTokenizerFast",
    n_samples: int,
    type_prefix: str,
    seed: int,
) -> Iterator[str]:
    """Sample segments of every type of document and format them as Markdown.

    Args:
        rows: The table ``train_rows``, ``validation_rows`` or ``held_out_rows``.
        tokenizer: The tokenizer of the rows.
        n_samples: Maximum number of documents of each type; no document is repeated.
        type_prefix: Type of the documents, such as "commit", or its first part, such as "chat";
            empty for all types.
        seed: Seeds the sampling.

    Yields:
        Parts of the page, in order.

    Raises:
        ParameterError: No document is of that type.
    """
    found: dict[str, dict[str, list[_SegmentLocation]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows.rows(["document_ids"])):
        for segment, document_id in enumerate(row["document_ids"]):
            found[document_type(document_id)][document_id].append(_SegmentLocation(number, segment))
    types = [
        name for name in sorted(found) if name == type_prefix or name.startswith(f"{type_prefix}/")
    ]
    if not type_prefix:
        types = sorted(found, key=lambda name: (name not in _DESCRIPTIONS, _order(name), name))
    if not types:
        raise ParameterError(
            f"No document in {rows.folder} is of the type {type_prefix!r}. Available types: "
            f"{', '.join(sorted(found))}."
        )
    for name in types:
        rng = random.Random(f"{seed}:samples:{name}")  # noqa: S311 - not for security
        chosen = rng.sample(sorted(found[name]), min(n_samples, len(found[name])))
        locations = [rng.choice(found[name][document_id]) for document_id in chosen]
        yield f"## {name}\n\n{_DESCRIPTIONS.get(name, '')} {len(found[name]):,} documents.\n"
        for text in _segments(rows, locations, tokenizer):
            yield f"{_FENCE}text\n{text}\n{_FENCE}\n"


def document_type(document_id: str) -> str:
    """Return the type of a document, a prefix of its id.

    >>> document_type("chat/why/0c1d"), document_type("file-after-cutoff/a/b.py")
    ('chat/why', 'file-after-cutoff')
    """
    first, second, *_ = document_id.split("/")
    return f"{first}/{second}" if first == "chat" else first


def _order(name: str) -> int:
    return list(_DESCRIPTIONS).index(name) if name in _DESCRIPTIONS else 0


def _segments(
    rows: ParquetTable,
    locations: Sequence[_SegmentLocation],
    tokenizer: "PreTrainedTokenizerFast",
) -> Iterator[str]:
    row_numbers = {location.row for location in locations}
    needed: dict[int, dict[str, Any]] = {
        number: row for number, row in enumerate(rows.rows()) if number in row_numbers
    }
    for location in locations:
        segment = render_segment(needed[location.row], location.segment, tokenizer)
        lines = plain_text(segment).split("\n")
        left = len(lines) - _MAX_LINES
        if left > 1:
            lines = [*lines[:_MAX_LINES], f"  … {left} more lines"]
        yield "\n".join(lines)
