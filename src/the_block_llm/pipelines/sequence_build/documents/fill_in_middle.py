"""Fill-in-the-middle documents, for completion models.

A fraction of the files is cut into chunks that fit a row; in each chunk one span between two
boundaries is moved to the end (Bavarian et al. 2022). A chunk replaces the plain text, so nothing
is trained on twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

import numpy as np

from the_block_llm.errors import ProfileError
from the_block_llm.pipelines.sequence_build.code.boundaries import boundary_strengths
from the_block_llm.pipelines.sequence_build.document import FIM_ID_PREFIX, RenderedDocument, Segment

FIM_PREFIX: Final = "<fim_prefix>"
FIM_SUFFIX: Final = "<fim_suffix>"
FIM_MIDDLE: Final = "<fim_middle>"

_BYTES_PER_TOKEN: Final = 2.5  # fewer than code has on average, so that most chunks fit their row
_SEARCH_DIVISOR: Final = 4  # a chunk ends in its last quarter
_MAX_MIDDLE_DIVISOR: Final = 2  # a middle is at most half of a chunk


def require_fim_tokens(vocabulary: Iterable[str], profile_name: str) -> None:
    """Check that the tokenizer has the fill-in-the-middle tokens.

    Raises:
        ProfileError: One of them is missing.
    """
    known = set(vocabulary)
    missing = [token for token in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE) if token not in known]
    if missing:
        raise ProfileError(
            f"The tokenizer of {profile_name} lacks {', '.join(missing)}, so fill-in-the-middle "
            "documents cannot be rendered. Use a completion model that has these tokens, such as "
            "StarCoder2, or set sequence_build.fim_share to 0."
        )


def apply_fim(
    documents: Iterable[RenderedDocument],
    context_tokens: int,
    fim_fraction: float,
    spm_fraction: float,
    seed: int,
) -> Iterator[RenderedDocument]:
    """Convert a fraction of the files to fill-in-the-middle chunks.

    Held-out files stay plain, so that every model is measured on the same text.

    Args:
        documents: Documents of any kind; those that are not files are passed through.
        context_tokens: Capacity of a row.
        fim_fraction: Fraction of the files to convert, 0 to 1.
        spm_fraction: Fraction of their chunks in suffix-prefix-middle order; the others are in
            prefix-suffix-middle order.
        seed: Together with the document id, seeds all random choices.
    """
    for document in documents:
        rng = Random(f"{seed}:middle:{document.document_id}")  # noqa: S311 - not for security
        if document.kind == "file" and document.split != "held_out" and rng.random() < fim_fraction:
            yield from _chunks(document, int(context_tokens * _BYTES_PER_TOKEN), spm_fraction, rng)
        else:
            yield document


def _chunks(
    document: RenderedDocument, chunk_bytes: int, spm_fraction: float, rng: Random
) -> Iterator[RenderedDocument]:
    header, *body = document.segments
    text = "".join(segment.text for segment in body).encode()
    strength = boundary_strengths(text, "file", document.source)
    begin = number = 0
    while begin < len(text):
        end = _chunk_end(text, strength, begin, chunk_bytes)
        plain = replace(
            document,
            document_id=f"file-part/{document.source}#{number}",
            segments=(header, *_slice_segments(body, begin, end)),
        )
        span = _choose_middle(strength[begin:end], rng)
        is_spm = rng.random() < spm_fraction
        if plain.has_target:
            yield (
                plain
                if span is None
                else _fim_document(
                    plain, body, (begin, begin + span[0], begin + span[1], end), is_spm=is_spm
                )
            )
        begin, number = end, number + 1


def _fim_document(
    plain: RenderedDocument,
    body: Sequence[Segment],
    offsets: tuple[int, int, int, int],
    *,
    is_spm: bool,
) -> RenderedDocument:
    begin, middle_begin, middle_end, end = offsets
    prefix = [plain.segments[0], *_slice_segments(body, begin, middle_begin)]
    suffix = _slice_segments(body, middle_end, end) or [Segment("", train=True)]
    middle = _slice_segments(body, middle_begin, middle_end)
    if is_spm:
        segments = [
            *_with_leading((FIM_PREFIX, FIM_SUFFIX), suffix),
            *_with_leading((FIM_MIDDLE,), prefix),
            *middle,
        ]
    else:
        segments = [
            *_with_leading((FIM_PREFIX,), prefix),
            *_with_leading((FIM_SUFFIX,), suffix),
            *_with_leading((FIM_MIDDLE,), middle),
        ]
    identity = plain.document_id.removeprefix("file-part/")
    return replace(
        plain,
        document_id=f"{FIM_ID_PREFIX}{identity}",
        segments=tuple(segments),
        fallback=plain,
    )


def _with_leading(tokens: tuple[str, ...], segments: Sequence[Segment]) -> list[Segment]:
    return [replace(segments[0], leading_context_tokens=tokens), *segments[1:]]


def _chunk_end(text: bytes, strength: Any, begin: int, chunk_bytes: int) -> int:
    end = begin + chunk_bytes
    if end >= len(text):
        return len(text)
    first = end - chunk_bytes // _SEARCH_DIVISOR
    window = strength[first : end + 1]
    if window.any():
        return first + len(window) - 1 - int(np.argmax(window[::-1]))
    while text[end] & 0xC0 == 0x80:  # UTF-8 continuation byte
        end -= 1
    return end


def _choose_middle(strength: Any, rng: Random) -> tuple[int, int] | None:
    """Choose a span from a boundary to the next one that is at least as strong.

    Returns:
        The span, or ``None`` if a chunk has no boundary inside.
    """
    boundaries = [int(offset) for offset in np.flatnonzero(strength[1:]) + 1]
    if not boundaries:
        return None
    begin = rng.choices(boundaries, weights=[int(strength[offset]) for offset in boundaries])[0]
    max_end = begin + max(1, len(strength) // _MAX_MIDDLE_DIVISOR)
    candidates = [offset for offset in (*boundaries, len(strength)) if begin < offset <= max_end]
    as_strong = (
        offset
        for offset in candidates
        if offset == len(strength) or strength[offset] >= strength[begin]
    )
    end = next(as_strong, candidates[-1] if candidates else None)
    return None if end is None else (begin, end)


def _slice_segments(body: Sequence[Segment], begin: int, end: int) -> list[Segment]:
    """Return the bytes ``[begin, end)`` of the body; neither offset is inside a character."""
    found: list[Segment] = []
    start = 0
    for segment in body:
        data = segment.text.encode()
        part = data[max(0, begin - start) : max(0, end - start)]
        if part:
            # Special tokens around the full text are dropped: they do not apply to its parts.
            found.append(Segment(part.decode(), segment.train))
        start += len(data)
    return found
