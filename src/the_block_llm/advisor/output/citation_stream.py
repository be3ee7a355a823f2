"""An answer on its way to the reader: each citation is checked before it is shown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from the_block_llm.retrieval.citations import Citation, KnownNames, cited_spans

NOT_FOUND: Final = " (not found)"
# A citation holds no white space, so what stands before it is complete.
_SAFE_END: Final = re.compile(r"\s(?=\S*$)")
# Scripts without spaces would otherwise come in one piece at the end.
_OTHER_SCRIPT_END: Final = re.compile(r"[^\x00-\x7f](?=[\x00-\x7f]*$)")
_LONGEST_WORD: Final = 300
_LONG_WORD: Final = 48


@dataclass(frozen=True)
class Part:
    """Plain text, or one citation."""

    text: str
    citation: Citation | None = None

    def marked(self) -> str:
        """As it is shown where nothing but text can be."""
        missing = self.citation is not None and not self.citation.exists
        return self.text + NOT_FOUND if missing else self.text


class CitationCheck:
    """Takes text in any pieces and gives it back in parts, no citation cut in two."""

    def __init__(self, known: KnownNames | None) -> None:
        """Check against ``known``; without it nothing is taken for a citation."""
        self._known = known
        self._held = ""

    def feed(self, text: str) -> Iterator[Part]:
        """Parts that are complete with ``text``."""
        if self._known is None:
            if text:
                yield Part(text)
            return
        self._held += text
        end = self._safe_end()
        ready, self._held = self._held[:end], self._held[end:]
        yield from _parts(ready, self._known)

    def flush(self) -> Iterator[Part]:
        """What is left at the end of the answer."""
        if self._held and self._known is not None:
            yield from _parts(self._held, self._known)
        self._held = ""

    def _safe_end(self) -> int:
        # The space stays with what follows it: a mark is put behind a word, not behind a gap.
        space = _SAFE_END.search(self._held)
        start = space.start() if space else 0
        word = len(self._held) - start
        if word > _LONGEST_WORD:
            return len(self._held)
        if word > _LONG_WORD and (other := _OTHER_SCRIPT_END.search(self._held, start)):
            return other.end()
        return start


def _parts(text: str, known: KnownNames) -> Iterator[Part]:
    at = 0
    for span in cited_spans(text, known):
        if span.start > at:
            yield Part(text[at : span.start])
        yield Part(text[span.start : span.end], span.citation)
        at = span.end
    if at < len(text):
        yield Part(text[at:])
