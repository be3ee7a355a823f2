"""A rendered document, before tokenization."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from the_block_llm.schemas import DocumentKind, Split

FIM_ID_PREFIX: Final = "file-in-the-middle/"
"""Prefix of the ids of fill-in-the-middle documents."""


@dataclass(frozen=True)
class Segment:
    """A span of text that is either a training target or context only."""

    text: str
    train: bool
    """Whether the tokens of the text are in the loss."""
    leading_context_tokens: tuple[str, ...] = ()
    """Special tokens before the text, never in the loss."""
    leading_tokens: tuple[str, ...] = ()
    """Special tokens before the text, in the loss if the text is."""
    trailing_tokens: tuple[str, ...] = ()
    """Special tokens after the text, in the loss if the text is."""


@dataclass(frozen=True)
class RenderedDocument:
    """One text for the model.

    A ``file`` or ``commit`` opens with a context segment, the header, which is repeated in every
    row that continues the document. A ``chat`` has two segments, question and answer.
    """

    document_id: str
    kind: DocumentKind
    split: Split
    source: str
    """Path of the file, or sha of the commit."""
    authored_at: datetime
    segments: tuple[Segment, ...]
    fallback: "RenderedDocument | None" = None
    """Replaces this document if it is longer than a row and must not be cut."""
    is_completion_pair: bool = False
    """Whether the target completes the context, so that duplicates must agree in both."""
    is_checked: bool = False
    """Whether it was checked for facts of evaluation commits; only such documents are tokenized."""

    @property
    def context_text(self) -> str:
        return "".join(segment.text for segment in self.segments if not segment.train)

    @property
    def has_target(self) -> bool:
        return any(segment.train and segment.text for segment in self.segments)


def replace_unencodable(document: RenderedDocument, unknown_bytes: bytes = b"") -> RenderedDocument:
    """Replace characters that cannot be encoded as UTF-8 or tokenized.

    Args:
        document: Any document.
        unknown_bytes: Bytes for which the tokenizer has no token and which it would drop
            silently; characters that need one become U+FFFD. SmolLM2 lacks six control
            characters and two of the unassigned planes of Unicode.

    Returns:
        The same object if nothing has to change. Lone surrogates, which UTF-8 cannot encode,
        become "?".
    """
    segments = tuple(
        replace(segment, text=text)
        if (text := _replace_unencodable(segment.text, unknown_bytes)) is not segment.text
        else segment
        for segment in document.segments
    )
    unchanged = all(new is old for new, old in zip(segments, document.segments, strict=True))
    return document if unchanged else replace(document, segments=segments)


def _replace_unencodable(text: str, unknown_bytes: bytes) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = text.encode(errors="replace")
        text = encoded.decode()
    # One pass in C over every text; the rare text that needs it is then checked by character.
    if not unknown_bytes or len(encoded.translate(None, unknown_bytes)) == len(encoded):
        return text
    unknown = frozenset(unknown_bytes)
    return "".join("\ufffd" if unknown.intersection(c.encode()) else c for c in text)


def is_atomic(kind: str, document_id: str) -> bool:
    """Return whether a document must not be cut: a chat, or a fill-in-the-middle document."""
    return kind == "chat" or document_id.startswith(FIM_ID_PREFIX)


@dataclass(frozen=True)
class Dropped:
    """A file or commit for which no document was rendered, and the reason."""

    reason: Literal[
        "merge", "nothing_said_or_shown", "nothing_new", "only_in_evaluation",
        "fixture", "data_file", "rendered_page",
    ]  # fmt: skip
    source: str
