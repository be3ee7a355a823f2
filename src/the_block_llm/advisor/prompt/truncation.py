"""Truncation of prompts to a token limit: passages, conversations, code around a gap."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from the_block_llm.advisor.prompt.prompts import (
    Message,
    encode_chat,
    encode_fim,
    passage_heading,
)
from the_block_llm.errors import PromptError
from the_block_llm.retrieval.passages import Passage


def check_unicode(*texts: str) -> None:
    """Refuse lone surrogates, which JSON and command lines may contain but tokenizers reject.

    Raises:
        PromptError: A text contains one; the message gives the character and its position.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"Character {error.start + 1} of the text, {text[error.start]!r}, is a lone "
                "surrogate and not a Unicode character. Was the text read as UTF-8?"
            ) from error


def last_question(messages: Sequence[Message]) -> str:
    """Return the question to answer: the content of the last message.

    Raises:
        PromptError: The last message is not from the user, or is empty.
    """
    if not messages or messages[-1].role != "user":
        raise PromptError("The last message must have the role user.")
    question = messages[-1].content.strip()
    if not question:
        raise PromptError("The question is empty. Ask something about the repository.")
    return question


def select_passages(
    tokenizer: PreTrainedTokenizerFast, passages: Sequence[Passage], max_tokens: int
) -> list[Passage]:
    """Return the best passages that together fit ``max_tokens``.

    Args:
        tokenizer: Tokenizer of the model.
        passages: Candidates, best first. The first is truncated if it alone does not fit.
        max_tokens: Token limit of all passages together, headings included.
    """
    selected: list[Passage] = []
    remaining_tokens = max_tokens
    for passage in passages:
        n_tokens = _count_tokens(tokenizer, passage)
        while not selected and n_tokens > remaining_tokens and passage.text.strip():
            shorter = passage.text[: len(passage.text) * remaining_tokens // (n_tokens + 1)]
            passage = replace(passage, text=shorter)  # noqa: PLW2901
            n_tokens = _count_tokens(tokenizer, passage)
        if n_tokens <= remaining_tokens and passage.text.strip():
            selected.append(passage)
            remaining_tokens -= n_tokens
    return selected


def _count_tokens(tokenizer: PreTrainedTokenizerFast, passage: Passage) -> int:
    return len(tokenizer(f"{passage_heading(passage)}\n{passage.text}\n\n")["input_ids"])


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    profile_name: str,
    max_tokens: int,
) -> tuple[list[int], int]:
    """Encode a conversation, dropping its earliest messages until it fits ``max_tokens``.

    System messages and the last question are never dropped.

    Returns:
        Token ids, and the number of dropped messages.

    Raises:
        PromptError: The question alone is too long.
    """
    system = [m for m in messages[:-1] if m.role == "system"]
    turns = [m for m in messages[:-1] if m.role != "system"]
    dropped = 0
    while True:
        ids = encode_chat(tokenizer, [*system, *turns[dropped:], messages[-1]], profile_name)
        if len(ids) <= max_tokens:
            return ids, dropped
        if dropped == len(turns):
            raise PromptError(
                f"The prompt is {len(ids):,} tokens long, the limit is {max_tokens:,}. Shorten the "
                "question or its context, or raise advisor.cpu.prompt_tokens or "
                "advisor.cuda.prompt_tokens."
            )
        # Drop a question together with its answer.
        dropped = min(dropped + 2, len(turns))


def encode_around_gap(
    tokenizer: PreTrainedTokenizerFast,
    prefix: str,
    suffix: str,
    profile_name: str,
    max_tokens: int,
) -> list[int]:
    """Encode the code nearest to the gap, three quarters of it before the gap."""
    while True:
        ids = encode_fim(tokenizer, prefix, suffix, profile_name)
        if len(ids) <= max_tokens:
            # The model needs at least one token.
            return ids or [int(tokenizer.eos_token_id)]
        n_characters = (len(prefix) + len(suffix)) * max_tokens // (len(ids) + 1)
        after = min(len(suffix), n_characters // 4)
        prefix, suffix = prefix[len(prefix) - (n_characters - after) :], suffix[:after]
