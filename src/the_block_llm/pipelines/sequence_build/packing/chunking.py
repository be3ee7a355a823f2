"""Split documents that are longer than a row into consecutive, overlapping chunks."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# The boundary is chosen in the last quarter of what fits: an earlier boundary would
# leave a gap that few documents are short enough to fill.
_SEARCH_DIVISOR = 4
_SCOPE_HEADER_DIVISOR = 4  # a section line takes at most this fraction of the overlap
_NO_SCOPE_HEADER = (0, 0)


class Chunk(NamedTuple):
    """Tokens ``[start, end)`` of a document, after repeated context.

    The context is shown but not trained on, so every token is a target in exactly one chunk. It
    consists of the document's header ``[0, header_tokens)``, the ``scope_header`` (the line that
    opens the enclosing class, function, heading or patched file), and ``[context_start, start)``.
    """

    document: int
    header_tokens: int
    context_start: int
    start: int
    end: int
    scope_header: tuple[int, int] = _NO_SCOPE_HEADER

    @property
    def n_tokens(self) -> int:
        section_start, section_end = self.scope_header
        return self.header_tokens + section_end - section_start + self.end - self.context_start

    def with_more_context(self, free_tokens: int) -> "Chunk":
        """Extend the context backwards by up to ``free_tokens``."""
        if self.start == 0:
            return self
        context_start = max(self.header_tokens, self.context_start - free_tokens)
        if self.scope_header != _NO_SCOPE_HEADER:
            section_start, section_end = self.scope_header
            if context_start >= section_end:
                return self._replace(context_start=context_start)
            # The context now reaches the section line, which need not be repeated any more.
            length = section_end - section_start
            context_start = max(self.header_tokens, self.context_start - free_tokens - length)
        if context_start > self.header_tokens:
            return Chunk(self.document, self.header_tokens, context_start, self.start, self.end)
        # The context covers everything before the chunk, the header included.
        return Chunk(self.document, 0, 0, self.start, self.end)


def chunk_document(
    document: int,
    n_tokens: int,
    header_tokens: int,
    strengths: npt.NDArray[np.int8],
    context_tokens: int,
    overlap_tokens: int,
    scope_header_before: Callable[[int], tuple[int, int]] = lambda _: _NO_SCOPE_HEADER,
) -> list[Chunk]:
    """Split one document.

    Args:
        document: Its index, copied to the chunks.
        n_tokens: Its length.
        header_tokens: Length of the header to repeat in every chunk; it is not repeated if it
            takes more than half of the overlap.
        strengths: Strength of the boundary before each token, shape ``(n_tokens,)``; see
            :mod:`~the_block_llm.pipelines.sequence_build.code.boundaries`.
        context_tokens: Capacity of a row.
        overlap_tokens: Context repeated at the start of a chunk, header included. At least one
            token is repeated: the first token of a sequence has no prediction, so it would never
            be trained on.
        scope_header_before: Returns for the first token of a chunk the token range of the line
            that opens its section, empty if there is none. It is repeated if it takes at most a
            quarter of the overlap and is not part of the other context.

    Returns:
        Chunks of at most ``context_tokens``; their ``[start, end)`` partition the document.

    >>> flat = np.zeros(10, np.int8)
    >>> [(c.context_start, c.start, c.end) for c in chunk_document(0, 10, 0, flat, 6, 2)]
    [(0, 0, 6), (4, 6, 10)]
    """
    if n_tokens <= context_tokens:
        return [Chunk(document, 0, 0, 0, n_tokens)]
    overlap = max(1, overlap_tokens)
    header = header_tokens if header_tokens * 2 <= overlap else 0
    chunks: list[Chunk] = []
    start = 0
    while start < n_tokens:
        context_start, repeated_header = start - (overlap - header), header
        if start == 0 or context_start <= header:
            # The context covers everything before the chunk, the header included.
            context_start, repeated_header = 0, 0
        scope_header = scope_header_before(start) if context_start else _NO_SCOPE_HEADER
        length = scope_header[1] - scope_header[0]
        if not (
            header <= scope_header[0] < scope_header[1] <= context_start
            and length * _SCOPE_HEADER_DIVISOR <= overlap
        ):
            scope_header, length = _NO_SCOPE_HEADER, 0
        context_start += length
        capacity = context_tokens - repeated_header - length - (start - context_start)
        end = min(n_tokens, start + capacity)
        if end < n_tokens:
            end = _best_boundary(strengths, start + capacity - capacity // _SEARCH_DIVISOR, end)
        chunks.append(Chunk(document, repeated_header, context_start, start, end, scope_header))
        start = end
    return chunks


def token_boundary_strengths(
    byte_offsets: npt.NDArray[np.int64],
    byte_strengths: npt.NDArray[np.int8],
    token_ends: npt.NDArray[np.int64],
) -> npt.NDArray[np.int8]:
    """Map boundary strengths from byte offsets to tokens.

    A boundary inside a token (GPT-2 joins a newline with the indent that follows) counts for that
    token.

    Args:
        byte_offsets: Bytes with a boundary before them, ascending.
        byte_strengths: Strength of each boundary, of the same shape.
        token_ends: Byte offset of the end of each token, shape ``(tokens,)``; a special token
            stands for no text, so it ends where the token before it does.

    Returns:
        Strength of the boundary before each token, shape ``(tokens,)``.
    """
    strengths = np.zeros(len(token_ends), np.int8)
    tokens = np.searchsorted(token_ends, byte_offsets, side="right")
    np.maximum.at(strengths, tokens, byte_strengths)
    return strengths


def chunks_with_targets(
    chunks: Sequence[Chunk], labels_mask: npt.NDArray[np.bool_]
) -> Iterator[Chunk]:
    """Yield the chunks that have at least one target token."""
    return (chunk for chunk in chunks if labels_mask[chunk.start : chunk.end].any())


def last_target_position(chunk: Chunk, labels_mask: npt.NDArray[np.bool_]) -> int:
    """Return the position in the document of the chunk's last target; there must be one."""
    return chunk.end - 1 - int(np.argmax(labels_mask[chunk.start : chunk.end][::-1]))


def extend_chunks(
    chunks: Sequence[Chunk],
    rows: Sequence[Sequence[int]],
    context_tokens: int,
    last_targets: Sequence[int],
) -> list[Chunk]:
    """Extend chunks into the free tokens of their rows.

    First, continuation chunks get more context. Tokens that are still free are filled by moving a
    chunk's end past its boundary: the tokens that it takes from the next chunk become context
    there, so the next chunk keeps its length, and it keeps at least one target.

    Args:
        chunks: The chunks of a document are consecutive.
        rows: Indices of the chunks in each row.
        context_tokens: Capacity of a row.
        last_targets: Of each chunk, see :func:`last_target_position`.

    Returns:
        The extended chunks, in the same order.

    >>> first, last = Chunk(0, 0, 0, 0, 5), Chunk(0, 0, 3, 5, 9)
    >>> extended = extend_chunks([first, last], [[0], [1]], 7, [4, 8])
    >>> [(c.context_start, c.start, c.end) for c in extended]
    [(0, 0, 7), (2, 7, 9)]
    """
    extended = list(chunks)
    for row in rows:
        free = context_tokens - sum(extended[index].n_tokens for index in row)
        for index in row if free else ():
            longer = extended[index].with_more_context(free)
            free -= longer.n_tokens - extended[index].n_tokens
            extended[index] = longer
        for index in row if free else ():
            following = extended[index + 1] if index + 1 < len(extended) else None
            chunk = extended[index]
            if following is None or (following.document, following.start) != (
                chunk.document,
                chunk.end,
            ):
                continue
            moved = min(free, last_targets[index + 1] - following.start)
            extended[index] = chunk._replace(end=chunk.end + moved)
            extended[index + 1] = following._replace(start=following.start + moved)
            free -= moved
    return extended


def _best_boundary(strengths: npt.NDArray[np.int8], first: int, last: int) -> int:
    candidates = strengths[first : last + 1]
    if not candidates.any():
        return last
    # The last of the strongest: fuller chunks need fewer rows.
    return first + len(candidates) - 1 - int(np.argmax(candidates[::-1]))
