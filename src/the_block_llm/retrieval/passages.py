"""BM25 search over passages of a repository."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

# bm25s initializes JAX if it is installed, and JAX preallocates three quarters of a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import bm25s  # type: ignore[import-untyped]

from the_block_llm.retrieval.words import split_words

_MAX_LISTED_PATHS: Final = 10


@dataclass(frozen=True)
class Passage:
    """A chunk of a file, or the message of a commit with the paths it changed."""

    source: str
    """Path of the file or sha of the commit."""
    text: str
    first_line: int | None = None
    """First line of the chunk in its file, from 1; None for a commit."""

    @property
    def last_line(self) -> int | None:
        """Last line of the chunk in its file, from 1; None for a commit."""
        if self.first_line is None:
            return None
        return self.first_line + self.text.removesuffix("\n").count("\n")


class PassageIndex:
    """BM25 index of passages."""

    def __init__(self, passages: Sequence[Passage], ranking: bm25s.BM25 | None = None) -> None:
        """Index ``passages``, or use a ``ranking`` that was built from them before."""
        self._passages = passages
        self._ranking = ranking
        if ranking is None and passages:
            self._ranking = bm25s.BM25()
            # The path is indexed as well, because questions name files.
            words = [split_words(f"{p.source}\n{p.text}") or ["-"] for p in passages]
            self._ranking.index(words, show_progress=False)

    @classmethod
    def load(cls, passages: Sequence[Passage], folder: Path) -> "PassageIndex":
        """Load the index that :meth:`save` wrote for the same passages."""
        return cls(passages, bm25s.BM25.load(str(folder), mmap=True) if passages else None)

    def save(self, folder: Path) -> None:
        """Save the BM25 index, without the passages."""
        if self._ranking is not None:
            self._ranking.save(str(folder), show_progress=False)

    def find(self, question: str, n_passages: int) -> list[Passage]:
        """Return up to ``n_passages`` passages that share a word with ``question``, best first."""
        words = split_words(question)
        if self._ranking is None or not words or n_passages == 0:
            return []
        indices, scores = self._ranking.retrieve(
            [words], k=min(n_passages, len(self._passages)), show_progress=False
        )
        return [
            self._passages[int(index)]
            for index, score in zip(indices[0], scores[0], strict=True)
            if score > 0
        ]


def file_passages(path: str, text: str, passage_characters: int) -> Iterator[Passage]:
    """Split one file into passages."""
    for first_line, chunk in split_at_lines(text, passage_characters):
        yield Passage(path, chunk, first_line)


def commit_passages(
    commits: Mapping[str, Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]],
    passage_characters: int,
) -> Iterator[Passage]:
    """Yield the message of each commit, with the paths it changed.

    Args:
        commits: Rows of ``commits`` by sha; changes of other commits are skipped.
        changes: Rows of ``file_changes`` in table order; ``sha`` and ``path``.
        passage_characters: Messages are truncated to this length.
    """
    for sha, group in groupby(changes, key=lambda row: row["sha"]):
        if commit := commits.get(sha):
            paths = [row["path"] for row in group]
            message = f"{commit['subject']}\n{commit['body']}".strip()[:passage_characters]
            path_list = "\n".join(f"- {path}" for path in paths[:_MAX_LISTED_PATHS])
            yield Passage(sha, f"{message}\nFiles it changed:\n{path_list}")


def split_at_lines(text: str, max_characters: int) -> list[tuple[int, str]]:
    r"""Split a text into chunks of complete lines, each at most ``max_characters``.

    A longer line is a chunk by itself.

    Returns:
        For each chunk its first line, from 1, and its text; blank chunks are omitted.

    >>> split_at_lines("aa\nbb\ncccccc\nd\n", 6)
    [(1, 'aa\nbb\n'), (3, 'cccccc\n'), (4, 'd\n')]
    """
    chunks: list[tuple[int, str]] = []
    start, current = 1, ""
    # Lines as editors count them: form feed and U+2028 are not line breaks.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if current and len(current) + len(line) > max_characters:
            chunks.append((start, current))
            start, current = number, ""
        current += line
    return [(first, chunk) for first, chunk in [*chunks, (start, current)] if chunk.strip()]
