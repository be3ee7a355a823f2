"""A page of samples: what rows say, segment by segment, a few of every sort of document."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.inspect.row_view import marked_lines, show_segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MOST_LINES: Final = 36  # of one sample; the rest is counted
_FENCE: Final = "````"
_SENTENCES: Final = {
    "file": "A file of the snapshot, or the part of one that fits a row.",
    "file-in-the-middle": "A part of a file whose middle comes last.",
    "file-part": "A part of a file that has no border inside to take a middle at.",
    "file-folder": "How a file begins, and the folder it stands in.",
    "commit": "A commit or a merge: what was said and what was changed.",
    "commit-files": "Paths that one commit changed.",
    "commit-message": "A patch and its message.",
    "code-file": "What a commit added to a file, and the file.",
    "chat/why": "Why a change was made.",
    "chat/together": "What else changes with a file.",
    "chat/history": "What was done to a file, and when.",
    "chat/file": "What a file is for.",
    "chat/definition": "What a type or function is for.",
    "chat/where": "Where something lives.",
    "chat/section": "What a section of the documentation says.",
    "chat/outline": "What a file defines.",
    "chat/folder": "What a folder holds.",
    "chat/depends-on": "What a file uses.",
    "chat/used-by": "What uses a file.",
}


@dataclass(frozen=True)
class _Place:
    row: int
    segment: int


def sample_page(
    rows: ParquetTable, tokenizer: "PreTrainedTokenizerFast", n_samples: int, sort: str, seed: int
) -> Iterator[str]:
    """Choose segments of every sort of document, and write them as Markdown.

    Args:
        rows: The table ``train``, ``validation`` or ``held_out``.
        tokenizer: The one the rows were made with.
        n_samples: How many of each sort, at most; no document is shown twice.
        sort: How the ids of the documents begin ("commit", "chat/why"); empty: every sort.
        seed: Chooses them.

    Yields:
        Parts of the page, in order.

    Raises:
        ParameterError: No document is of that sort.
    """
    found: dict[str, dict[str, list[_Place]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows.rows(["document_ids"])):
        for segment, document_id in enumerate(row["document_ids"]):
            found[sort_of(document_id)][document_id].append(_Place(number, segment))
    wanted = [name for name in sorted(found) if name == sort or name.startswith(f"{sort}/")]
    if not sort:
        wanted = sorted(found, key=lambda name: (name not in _SENTENCES, _order(name), name))
    if not wanted:
        raise ParameterError(
            f"No document in {rows.folder} is of the sort {sort!r}. There are: "
            f"{', '.join(sorted(found))}."
        )
    for name in wanted:
        rng = random.Random(f"{seed}:samples:{name}")  # noqa: S311 - nothing secret
        chosen = rng.sample(sorted(found[name]), min(n_samples, len(found[name])))
        places = [rng.choice(found[name][document_id]) for document_id in chosen]
        yield f"## {name}\n\n{_SENTENCES.get(name, '')} {len(found[name]):,} documents.\n"
        for text in _segments(rows, places, tokenizer):
            yield f"{_FENCE}text\n{text}\n{_FENCE}\n"


def sort_of(document_id: str) -> str:
    """The sort of a document, out of its id.

    >>> sort_of("chat/why/0c1d"), sort_of("file-after-cutoff/a/b.py")
    ('chat/why', 'file-after-cutoff')
    """
    first, second, *_ = document_id.split("/")
    return f"{first}/{second}" if first == "chat" else first


def _order(name: str) -> int:
    return list(_SENTENCES).index(name) if name in _SENTENCES else 0


def _segments(
    rows: ParquetTable, places: Sequence[_Place], tokenizer: "PreTrainedTokenizerFast"
) -> Iterator[str]:
    wanted = {place.row for place in places}
    read: dict[int, dict[str, Any]] = {
        number: row for number, row in enumerate(rows.rows()) if number in wanted
    }
    for place in places:
        lines = marked_lines(show_segment(read[place.row], place.segment, tokenizer)).split("\n")
        left = len(lines) - _MOST_LINES
        if left > 1:
            lines = [*lines[:_MOST_LINES], f"  … {left} more lines"]
        yield "\n".join(lines)
