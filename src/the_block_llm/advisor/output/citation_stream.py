"""Splits a streamed answer into text and citations, and checks each citation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from the_block_llm.retrieval.citations import Citation, KnownNames, cited_spans

NOT_FOUND: Final = " (not found)"
# A citation contains no white space, so everything before the last white space is complete.
_LAST_WHITESPACE: Final = re.compile(r"\s(?=\S*$)")
# Text without spaces (Chinese, Japanese) would otherwise be buffered until the answer ends.
_LAST_NON_ASCII: Final = re.compile(r"[^\x00-\x7f](?=[\x00-\x7f]*$)")
_MAX_WORD_CHARACTERS: Final = 300
_LONG_WORD_CHARACTERS: Final = 48


@dataclass(frozen=True)
class Part:
    """Plain text, or one citation."""

    text: str
    citation: Citation | None = None

    def annotated_text(self) -> str:
        """Return the text, with a marker if the citation does not exist."""
        is_missing = self.citation is not None and not self.citation.exists
        return self.text + NOT_FOUND if is_missing else self.text


class CitationStream:
    """Converts text chunks to parts; a citation is never split between two parts."""

    def __init__(self, known: KnownNames | None) -> None:
        """Start an empty stream.

        Args:
            known: Names to check citations against; None disables citation detection.
        """
        self._known = known
        self._buffer = ""

    def feed(self, text: str) -> Iterator[Part]:
        """Yield the parts that ``text`` completes."""
        if self._known is None:
            if text:
                yield Part(text)
            return
        self._buffer += text
        end = self._complete_length()
        complete, self._buffer = self._buffer[:end], self._buffer[end:]
        yield from _split_parts(complete, self._known)

    def flush(self) -> Iterator[Part]:
        """Yield the remaining parts at the end of the answer."""
        if self._buffer and self._known is not None:
            yield from _split_parts(self._buffer, self._known)
        self._buffer = ""

    def _complete_length(self) -> int:
        """Return how many buffered characters can no longer become part of a citation."""
        # The white space stays in the buffer, so that the marker follows the cited word directly.
        whitespace = _LAST_WHITESPACE.search(self._buffer)
        start = whitespace.start() if whitespace else 0
        word_characters = len(self._buffer) - start
        if word_characters > _MAX_WORD_CHARACTERS:
            return len(self._buffer)
        if word_characters > _LONG_WORD_CHARACTERS and (
            non_ascii := _LAST_NON_ASCII.search(self._buffer, start)
        ):
            return non_ascii.end()
        return start


def _split_parts(text: str, known: KnownNames) -> Iterator[Part]:
    position = 0
    for span in cited_spans(text, known):
        if span.start > position:
            yield Part(text[position : span.start])
        yield Part(text[span.start : span.end], span.citation)
        position = span.end
    if position < len(text):
        yield Part(text[position:])
