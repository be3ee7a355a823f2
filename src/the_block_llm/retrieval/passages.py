"""Passages of a repository that fit a question, as anybody could find them: BM25."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

# Where JAX is installed, bm25s starts it, and JAX takes three quarters of a GPU for itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import bm25s  # type: ignore[import-untyped]

from the_block_llm.retrieval.words import split_words

_PATHS_NAMED: Final = 10


@dataclass(frozen=True)
class Passage:
    """A piece of a file, or a commit's message with the paths it changed."""

    source: str
    """Path of the file, or sha of the commit."""
    text: str
    first_line: int | None = None
    """Where the piece begins in its file, from 1; none for a commit."""

    @property
    def last_line(self) -> int | None:
        """Line of the file that the piece ends with."""
        if self.first_line is None:
            return None
        return self.first_line + self.text.removesuffix("\n").count("\n")


class PassageIndex:
    """Finds the passages that share the rarest words with a question."""

    def __init__(self, passages: Sequence[Passage], ranking: bm25s.BM25 | None = None) -> None:
        """Index ``passages``, or take the ``ranking`` that was made of them before."""
        self._passages = passages
        self._ranking = ranking
        if ranking is None and passages:
            self._ranking = bm25s.BM25()
            # The path counts as text: questions name files.
            words = [split_words(f"{p.source}\n{p.text}") or ["-"] for p in passages]
            self._ranking.index(words, show_progress=False)

    @classmethod
    def load(cls, passages: Sequence[Passage], folder: Path) -> "PassageIndex":
        """Open what :meth:`save` wrote about the same passages."""
        return cls(passages, bm25s.BM25.load(str(folder), mmap=True) if passages else None)

    def save(self, folder: Path) -> None:
        """Write the ranking, without the passages."""
        if self._ranking is not None:
            self._ranking.save(str(folder), show_progress=False)

    def find(self, question: str, n_passages: int) -> list[Passage]:
        """The best ``n_passages`` at most, best first; none that shares no word."""
        words = split_words(question)
        if self._ranking is None or not words or n_passages == 0:
            return []
        places, scores = self._ranking.retrieve(
            [words], k=min(n_passages, len(self._passages)), show_progress=False
        )
        return [
            self._passages[int(place)]
            for place, score in zip(places[0], scores[0], strict=True)
            if score > 0
        ]


def file_passages(path: str, text: str, passage_characters: int) -> Iterator[Passage]:
    """The pieces of one file."""
    for first_line, piece in cut_at_lines(text, passage_characters):
        yield Passage(path, piece, first_line)


def commit_passages(
    commits: Mapping[str, Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]],
    passage_characters: int,
) -> Iterator[Passage]:
    """Each commit's message, with the paths it changed.

    Args:
        commits: By sha, rows of ``commits``; others that ``changes`` names are passed over.
        changes: Rows of ``file_changes``, in the table's order; ``sha`` and ``path``.
        passage_characters: Most of a message that is kept.
    """
    for sha, group in groupby(changes, key=lambda row: row["sha"]):
        if commit := commits.get(sha):
            paths = [row["path"] for row in group]
            message = f"{commit['subject']}\n{commit['body']}".strip()[:passage_characters]
            named = "\n".join(f"- {path}" for path in paths[:_PATHS_NAMED])
            yield Passage(sha, f"{message}\nFiles it changed:\n{named}")


def cut_at_lines(text: str, most_characters: int) -> list[tuple[int, str]]:
    r"""Cut a text into pieces of whole lines, each as long as fits; longer lines stand alone.

    Returns:
        Pairs of the piece's first line, counted from 1, and the piece; blank ones are left out.

    >>> cut_at_lines("aa\nbb\ncccccc\nd\n", 6)
    [(1, 'aa\nbb\n'), (3, 'cccccc\n'), (4, 'd\n')]
    """
    pieces: list[tuple[int, str]] = []
    start, current = 1, ""
    # Lines as editors count them: a form feed or U+2028 ends none.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if current and len(current) + len(line) > most_characters:
            pieces.append((start, current))
            start, current = number, ""
        current += line
    return [(first, piece) for first, piece in [*pieces, (start, current)] if piece.strip()]
