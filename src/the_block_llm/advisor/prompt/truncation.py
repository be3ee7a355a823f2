"""What fits a prompt: passages, turns of a conversation, code around a gap."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from the_block_llm.advisor.prompt.prompts import Message, chat_ids, middle_ids, passage_heading
from the_block_llm.errors import PromptError
from the_block_llm.retrieval.passages import Passage


def check_characters(*texts: str) -> None:
    """Refuse halves of surrogate pairs: JSON and command lines can hold them, tokenizers not.

    Raises:
        PromptError: With the character and its place.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"Character {error.start + 1} of the text, {text[error.start]!r}, is no Unicode "
                "character but half of one. Was the text read as UTF-8?"
            ) from error


def last_question(messages: Sequence[Message]) -> str:
    """What is to be answered.

    Raises:
        PromptError: The last message is not a question, or is empty.
    """
    if not messages or messages[-1].role != "user":
        raise PromptError("The last message must be a question of the user.")
    question = messages[-1].content.strip()
    if not question:
        raise PromptError("The question is empty. Ask something about the repository.")
    return question


def affordable(
    tokenizer: PreTrainedTokenizerFast, passages: Sequence[Passage], most_tokens: int
) -> list[Passage]:
    """The best passages that fit the budget together; the first is cut where it alone does not."""
    kept: list[Passage] = []
    left = most_tokens
    for passage in passages:
        cost = _cost(tokenizer, passage)
        while not kept and cost > left and passage.text.strip():
            shorter = passage.text[: len(passage.text) * left // (cost + 1)]
            passage = replace(passage, text=shorter)  # noqa: PLW2901
            cost = _cost(tokenizer, passage)
        if cost <= left and passage.text.strip():
            kept.append(passage)
            left -= cost
    return kept


def _cost(tokenizer: PreTrainedTokenizerFast, passage: Passage) -> int:
    return len(tokenizer(f"{passage_heading(passage)}\n{passage.text}\n\n")["input_ids"])


def conversation_ids(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], profile: str, limit: int
) -> tuple[list[int], int]:
    """Token ids, and how many early turns were left out for them to fit.

    Raises:
        PromptError: The question alone is too long.
    """
    system = [m for m in messages[:-1] if m.role == "system"]
    turns = [m for m in messages[:-1] if m.role != "system"]
    dropped = 0
    while True:
        ids = chat_ids(tokenizer, [*system, *turns[dropped:], messages[-1]], profile)
        if len(ids) <= limit:
            return ids, dropped
        if dropped == len(turns):
            raise PromptError(
                f"The prompt is {len(ids):,} tokens long, the limit is {limit:,}. Shorten the "
                "question or its context, or raise advisor.cpu.prompt_tokens or "
                "advisor.cuda.prompt_tokens."
            )
        # A question goes together with its answer.
        dropped = min(dropped + 2, len(turns))


def nearest_ids(
    tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str, profile: str, limit: int
) -> list[int]:
    """Ids of what stands nearest to the gap, three quarters of it before the gap."""
    while True:
        ids = middle_ids(tokenizer, prefix, suffix, profile)
        if len(ids) <= limit:
            # Nothing at all before the first token: the model needs something to begin with.
            return ids or [int(tokenizer.eos_token_id)]
        n_characters = (len(prefix) + len(suffix)) * limit // (len(ids) + 1)
        after = min(len(suffix), n_characters // 4)
        prefix, suffix = prefix[len(prefix) - (n_characters - after) :], suffix[:after]
