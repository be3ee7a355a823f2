"""Documents whose middle comes last, for models that complete code between what stands around.

A share of the files is cut into chunks that fit a row; of each chunk one part, from a natural
border to another, is moved behind the rest (Bavarian et al. 2022). A chunk takes the place of
the plain text, so nothing is learned twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

import numpy as np

from the_block_llm.errors import ProfileError
from the_block_llm.pipelines.sequence_build.code.boundaries import borders
from the_block_llm.pipelines.sequence_build.document import IN_THE_MIDDLE, Draft, Segment

PREFIX: Final = "<fim_prefix>"
SUFFIX: Final = "<fim_suffix>"
MIDDLE: Final = "<fim_middle>"

_BYTES_PER_TOKEN: Final = 2.5  # denser text than code is: most chunks then fit their row
_SEARCHED: Final = 4  # a chunk ends in its last quarter
_LONGEST_MIDDLE: Final = 2  # half of a chunk


def require_middle_marks(vocabulary: Iterable[str], profile_name: str) -> None:
    """Refuse a tokenizer that has no marks for a middle.

    Raises:
        ProfileError: One of them is missing.
    """
    known = set(vocabulary)
    missing = [mark for mark in (PREFIX, SUFFIX, MIDDLE) if mark not in known]
    if missing:
        raise ProfileError(
            f"The tokenizer of {profile_name} lacks {', '.join(missing)}, so no documents for "
            "filling in the middle can be made. Use a completion model that has them, such as "
            "StarCoder2, or set sequence_build.fim_share to 0."
        )


def with_middles(
    drafts: Iterable[Draft], context_tokens: int, share: float, spm_share: float, seed: int
) -> Iterator[Draft]:
    """Move the middles of a share of the files behind the rest.

    Held-out files stay plain, so that they measure the same in every model.

    Args:
        drafts: Any documents; those that are not files pass through.
        context_tokens: Capacity of a row.
        share: Of the files, 0 to 1.
        spm_share: Of their chunks, those in the order suffix, prefix, middle; the others are
            in the order prefix, suffix, middle.
        seed: Decides, with the id of a document, what is moved.
    """
    for draft in drafts:
        rng = Random(f"{seed}:middle:{draft.document_id}")  # noqa: S311 - nothing secret
        if draft.kind == "file" and draft.split != "held_out" and rng.random() < share:
            yield from _chunks(draft, int(context_tokens * _BYTES_PER_TOKEN), spm_share, rng)
        else:
            yield draft


def _chunks(draft: Draft, chunk_bytes: int, spm_share: float, rng: Random) -> Iterator[Draft]:
    head, *body = draft.segments
    text = "".join(segment.text for segment in body).encode()
    strength = borders(text, "file", draft.source)
    begin = number = 0
    while begin < len(text):
        end = _chunk_end(text, strength, begin, chunk_bytes)
        plain = replace(
            draft,
            document_id=f"file-part/{draft.source}#{number}",
            segments=(head, *_slice(body, begin, end)),
        )
        span = _middle(strength[begin:end], rng)
        is_spm = rng.random() < spm_share
        if plain.has_target:
            yield (
                plain
                if span is None
                else _rearranged(
                    plain, body, (begin, begin + span[0], begin + span[1], end), is_spm=is_spm
                )
            )
        begin, number = end, number + 1


def _rearranged(
    plain: Draft, body: Sequence[Segment], at: tuple[int, int, int, int], *, is_spm: bool
) -> Draft:
    begin, middle_begin, middle_end, end = at
    prefix = [plain.segments[0], *_slice(body, begin, middle_begin)]
    suffix = _slice(body, middle_end, end) or [Segment("", train=True)]
    middle = _slice(body, middle_begin, middle_end)
    if is_spm:
        parts = [*_after((PREFIX, SUFFIX), suffix), *_after((MIDDLE,), prefix), *middle]
    else:
        parts = [
            *_after((PREFIX,), prefix), *_after((SUFFIX,), suffix), *_after((MIDDLE,), middle),
        ]  # fmt: skip
    identity = plain.document_id.removeprefix("file-part/")
    return replace(
        plain, document_id=f"{IN_THE_MIDDLE}{identity}", segments=tuple(parts), instead=plain
    )


def _after(marks: tuple[str, ...], segments: Sequence[Segment]) -> list[Segment]:
    return [replace(segments[0], shown_before=marks), *segments[1:]]


def _chunk_end(text: bytes, strength: Any, begin: int, chunk_bytes: int) -> int:
    end = begin + chunk_bytes
    if end >= len(text):
        return len(text)
    first = end - chunk_bytes // _SEARCHED
    window = strength[first : end + 1]
    if window.any():
        return first + len(window) - 1 - int(np.argmax(window[::-1]))
    while text[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def _middle(strength: Any, rng: Random) -> tuple[int, int] | None:
    """From a border to the next that is as strong; none where a chunk has no border inside."""
    at = [int(place) for place in np.flatnonzero(strength[1:]) + 1]
    if not at:
        return None
    begin = rng.choices(at, weights=[int(strength[place]) for place in at])[0]
    furthest = begin + max(1, len(strength) // _LONGEST_MIDDLE)
    later = [place for place in (*at, len(strength)) if begin < place <= furthest]
    closing = (
        place for place in later if place == len(strength) or strength[place] >= strength[begin]
    )
    end = next(closing, later[-1] if later else None)
    return None if end is None else (begin, end)


def _slice(body: Sequence[Segment], begin: int, end: int) -> list[Segment]:
    """The bytes ``[begin, end)`` of the body; neither lies inside a character."""
    found: list[Segment] = []
    start = 0
    for segment in body:
        data = segment.text.encode()
        part = data[max(0, begin - start) : max(0, end - start)]
        if part:
            # Marks around a whole text have no place in its parts.
            found.append(Segment(part.decode(), segment.train))
        start += len(data)
    return found
