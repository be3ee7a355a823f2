"""The check that every document passes: no training target states what only evaluation knows.

A document about a training commit or an older file may quote an evaluation commit, for example a
line that it added near one that is trained on. Whatever kind of document it is, the text that
would be trained on is compared with the lines, words and paths that only evaluation commits wrote.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Final

from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.history.evaluation_edits import WORD, EvaluationEdits
from the_block_llm.pipelines.sequence_build.history.line_normalization import (
    normalize_line,
    segment_lines,
)

_PATH: Final = re.compile(r"[\w./@+-]*[\w@+-]")
_PATCH_PATH: Final = re.compile(r"^(?:\+\+\+ b/|--- a/)(.*)$", re.MULTILINE)
_HUNK_HEADING: Final = re.compile(r"^@@ [^@]* @@ ?")


class TrainingCheck:
    """Checks the documents of one repository."""

    def __init__(self, edits: EvaluationEdits, template_words: Set[str]) -> None:
        """Prepare the check.

        Args:
            edits: What evaluation commits added.
            template_words: Words that documents add to the text of the repository; they state
                nothing, whoever else used them.
        """
        self._edits = edits
        self._words = edits.words - template_words
        self._new_paths = frozenset(path for path in edits.files if edits.is_new_path(path))

    def check(self, document: RenderedDocument) -> RenderedDocument | Dropped:
        """Return the document without targets that only evaluation commits state.

        In a file or commit such lines become context. A question or completion pair is dropped
        as a whole, since the rest of an answer would be wrong.
        """
        if document.split != "train":
            return replace(document, is_checked=True)
        if document.source in self._edits.commits or self._edits.is_new_file(document.source):
            return Dropped("only_in_evaluation", document.source)
        if document.kind == "chat" or document.is_completion_pair:
            if document.source in self._new_paths or any(
                self._states_evaluation(document, s) for s in document.segments if s.train
            ):
                return Dropped("only_in_evaluation", document.source)
            return replace(document, is_checked=True)
        segments = tuple(
            part for segment in document.segments for part in self._mask(document, segment)
        )
        if document.has_target and not any(s.train and s.text for s in segments):
            return Dropped("only_in_evaluation", document.source)
        return replace(document, segments=segments, is_checked=True)

    def _states_evaluation(self, document: RenderedDocument, segment: Segment) -> bool:
        return not self._new_paths.isdisjoint(_PATH.findall(segment.text)) or any(
            self._is_evaluation(line, document.source) for line in segment.text.splitlines()
        )

    def _mask(self, document: RenderedDocument, segment: Segment) -> Sequence[Segment]:
        """Split a target into lines to train on and lines of evaluation, which become context."""
        if not segment.train or not self._may_quote(document, segment.text):
            return [segment]
        path, is_patch = document.source, False

        def is_target(line: str) -> bool | None:
            nonlocal path, is_patch
            if document.kind == "commit":
                if header := _PATCH_PATH.match(line):
                    path, is_patch = header[1], True
                    return True
                if is_patch:
                    line = _HUNK_HEADING.sub(" ", line)[1:]
            return None if normalize_line(line) is None else not self._is_evaluation(line, path)

        return segment_lines(segment.text, is_target)

    def _may_quote(self, document: RenderedDocument, text: str) -> bool:
        """Return whether a line of the text can be one of evaluation; most texts have none."""
        if not self._words.isdisjoint(WORD.findall(text)):
            return True
        files = self._edits.files
        if document.kind == "file":
            return document.source in files
        return any(path in files for path in _PATCH_PATH.findall(text))

    def _is_evaluation(self, line: str, path: str) -> bool:
        normalized = normalize_line(line)
        return (
            normalized in self._edits.lines
            or normalized in self._edits.added_lines(path)
            or not self._words.isdisjoint(WORD.findall(line))
        )
