"""Special tokens that mark code, questions and answers in documents.

They are added to the tokenizer. The ids of the added tokens are stored with the rows, since a model
must train their rows of the embedding and of the head: an untrained token keeps its random vector.
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
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PATCH_START: Final = re.compile(r"^(?=--- (?:a/|/dev/null$))", re.MULTILINE)


def add_domain_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Add the special tokens that the tokenizer lacks.

    Returns:
        Ids of the added tokens by token, in ascending order.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in DOMAIN_TOKENS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=True)
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in missing}


def insert_domain_tokens(document: RenderedDocument) -> RenderedDocument:
    """Insert special tokens around code and patches, and before question and answer.

    The tokens that a model has to generate, the one before an answer and the one after code, are
    in the loss. The others are context.
    """
    if document.kind == "chat":
        question, answer = document.segments
        segments: tuple[Segment, ...] = (
            replace(question, leading_context_tokens=(QUESTION,)),
            replace(answer, leading_tokens=(ANALYSIS,)),
        )
    elif document.kind == "commit":
        segments = tuple(part for segment in document.segments for part in _mark_patch(segment))
    elif PurePosixPath(document.source).suffix.lower() in PROSE_SUFFIXES:
        segments = document.segments
    else:
        header, *body = document.segments
        segments = (header, *_mark_code(body))
    return replace(document, segments=segments)


def _mark_patch(segment: Segment) -> list[Segment]:
    patch = _PATCH_START.search(segment.text) if segment.train else None
    if patch is None:
        return [segment]
    message = [Segment(segment.text[: patch.start()], train=True)] if patch.start() else []
    return [*message, *_mark_code([Segment(segment.text[patch.start() :], train=True)])]


def _mark_code(body: list[Segment]) -> list[Segment]:
    marked = list(body)
    if marked:
        marked[0] = replace(marked[0], leading_context_tokens=(CODE_START,))
        marked[-1] = replace(marked[-1], trailing_tokens=(CODE_END,))
    return marked
