"""Marks of this project's own: where code begins and ends, what is asked, what is answered.

A tokenizer does not have them. They are added to it, and the tokens that were added stand
beside the rows, since a model must train their rows of embedding and head: an added token that
is not trained keeps a random vector for ever.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from the_block_llm.models.base.special_tokens import (
    ANALYSIS,
    CODE_END,
    CODE_START,
    DOMAIN_TOKENS,
    QUESTION,
)
from the_block_llm.pipelines.sequence_build.code.boundaries import PROSE_SUFFIXES
from the_block_llm.pipelines.sequence_build.document import Draft, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PATCH: Final = re.compile(r"^(?=--- (?:a/|/dev/null$))", re.MULTILINE)


def add_domain_marks(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Add the marks that the tokenizer lacks.

    Returns:
        Ids of the tokens that were added, by token, in ascending order.
    """
    before = tokenizer.get_vocab()
    missing = [mark for mark in DOMAIN_TOKENS if mark not in before]
    tokenizer.add_tokens(missing, special_tokens=True)
    return {mark: int(tokenizer.convert_tokens_to_ids(mark)) for mark in missing}


def with_domain_marks(draft: Draft) -> Draft:
    """Put the marks into a document: around code and patches, before question and answer.

    The marks that a model writes itself are learned: the one that opens an answer, and the one
    that closes code. The others are shown only.
    """
    if draft.kind == "chat":
        question, answer = draft.segments
        segments: tuple[Segment, ...] = (
            replace(question, shown_before=(QUESTION,)),
            replace(answer, before=(ANALYSIS,)),
        )
    elif draft.kind == "commit":
        segments = tuple(part for segment in draft.segments for part in _patch_marked(segment))
    elif PurePosixPath(draft.source).suffix.lower() in PROSE_SUFFIXES:
        segments = draft.segments
    else:
        head, *body = draft.segments
        segments = (head, *_code(body))
    return replace(draft, segments=segments)


def _patch_marked(segment: Segment) -> list[Segment]:
    patch = _PATCH.search(segment.text) if segment.train else None
    if patch is None:
        return [segment]
    message = [Segment(segment.text[: patch.start()], train=True)] if patch.start() else []
    return [*message, *_code([Segment(segment.text[patch.start() :], train=True)])]


def _code(body: list[Segment]) -> list[Segment]:
    marked = list(body)
    if marked:
        marked[0] = replace(marked[0], shown_before=(CODE_START,))
        marked[-1] = replace(marked[-1], after=(CODE_END,))
    return marked
