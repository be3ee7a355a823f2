"""Passages of the repository that fit a question, as anybody could find them: BM25.

The index holds the files and the history as they stood at the cut-off. What retrieval alone
achieves is the mark that tuning has to pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import bm25s  # type: ignore[import-untyped]

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.behavioral_eval.cutoff import Cutoff
from the_block_llm.pipelines.behavioral_eval.wording import split_words

_PATHS_NAMED: Final = 10


@dataclass(frozen=True)
class Passage:
    """A piece of a file, or a commit's message with the paths it changed."""

    source: str
    """Path of the file, or sha of the commit."""
    text: str


class PassageIndex:
    """Finds the passages that share the rarest words with a question."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._ranking: bm25s.BM25 | None = None
        if passages:
            self._ranking = bm25s.BM25()
            # The path counts as text: questions name files.
            words = [split_words(f"{p.source}\n{p.text}") or ["-"] for p in passages]
            self._ranking.index(words, show_progress=False)

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


def passages_at_cutoff(
    cutoff: Cutoff,
    commits: ParquetParts,
    file_changes: ParquetParts,
    snapshot_files: ParquetParts,
    passage_characters: int,
) -> Iterator[Passage]:
    """Cut the files at the cut-off into passages, and add the commits up to it."""
    for row in snapshot_files.rows(["sha", "path", "text", "kept"]):
        if row["kept"] and row["text"] and row["sha"] == cutoff.sha:
            for text in cut_at_lines(row["text"], passage_characters):
                yield Passage(row["path"], text)
    earlier = {
        row["sha"]: row
        for row in commits.rows(["sha", "subject", "body", "committed_at", "is_merge"])
        if not row["is_merge"] and cutoff.is_before(row["committed_at"])
    }
    rows = file_changes.rows(["sha", "path"])
    for sha, group in groupby(rows, key=lambda row: row["sha"]):
        if commit := earlier.get(sha):
            paths = [row["path"] for row in group]
            message = f"{commit['subject']}\n{commit['body']}".strip()[:passage_characters]
            named = "\n".join(f"- {path}" for path in paths[:_PATHS_NAMED])
            yield Passage(sha, f"{message}\nFiles it changed:\n{named}")


def cut_at_lines(text: str, most_characters: int) -> list[str]:
    r"""Cut a text into pieces of whole lines, each as long as fits; longer lines stand alone.

    >>> cut_at_lines("aa\nbb\ncccccc\nd\n", 6)
    ['aa\nbb\n', 'cccccc\n', 'd\n']
    """
    pieces: list[str] = []
    current = ""
    for line in text.splitlines(keepends=True):
        if current and len(current) + len(line) > most_characters:
            pieces.append(current)
            current = ""
        current += line
    return [piece for piece in [*pieces, current] if piece.strip()]
