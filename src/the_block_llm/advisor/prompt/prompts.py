"""Prompts as token ids, in which text of users and repositories is never a control token."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from transformers import PreTrainedTokenizerFast

from the_block_llm.errors import ProfileError, RoleError
from the_block_llm.retrieval.passages import Passage

# How the marks for filling in the middle are spelled: StarCoder's way, then Qwen's.
_MIDDLE_MARKS: Final = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
)
_INSTRUCTION: Final = (
    "Answer the question about {project}. Name the files and commits that your answer rests on "
    "as [path:line] and [sha], as they stand above the excerpts. If the excerpts do not say, "
    "say that you do not know."
)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def passage_heading(passage: Passage) -> str:
    r"""How a passage is cited.

    >>> passage_heading(Passage("src/a.rs", "x\ny\n", first_line=3))
    '[src/a.rs:3-4]'
    """
    if passage.first_line is None:
        return f"[{passage.source[:12]}]"
    if passage.first_line == passage.last_line:
        return f"[{passage.source}:{passage.first_line}]"
    return f"[{passage.source}:{passage.first_line}-{passage.last_line}]"


def with_passages(
    question: str, context: str, passages: Sequence[Passage], project: str | None
) -> str:
    """The last turn of the user: excerpts, then what the user gave, then the question."""
    parts = []
    if passages:
        found = "\n\n".join(f"{passage_heading(p)}\n{p.text.strip()}" for p in passages)
        parts += [f"Excerpts from {project}:\n\n{found}", _INSTRUCTION.format(project=project)]
    return "\n\n".join([*parts, *filter(None, [context.strip()]), question])


def chat_ids(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], profile_name: str
) -> list[int]:
    """A conversation in the model's own template, ready for the answer.

    Text that spells a control token (``<|im_end|>``) is taken apart into ordinary tokens: no
    question and no file of a repository can end its turn and speak in another's name.

    Raises:
        ProfileError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ProfileError(
            f"The tokenizer of {profile_name} has no chat template to put questions with. Use "
            "the instruct variant of the model, or give the profile the role completion."
        )
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(mark in message.content for message in messages for mark in marks):
        return list(tokenizer(_render(tokenizer, messages), add_special_tokens=False)["input_ids"])
    # Each content is held by a place that no text can spell, and encoded on its own.
    places = [f"\ue000{uuid.uuid4().hex}\ue001" for _ in messages]
    held = [Message(m.role, place) for m, place in zip(messages, places, strict=True)]
    rest, ids = _render(tokenizer, held), []
    for message, place in zip(messages, places, strict=True):
        frame, _, rest = rest.partition(place)
        ids += tokenizer(frame, add_special_tokens=False)["input_ids"]
        ids += plain_ids(tokenizer, message.content.strip())
    return [*ids, *tokenizer(rest, add_special_tokens=False)["input_ids"]]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """``text`` as ordinary tokens, whatever it spells."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


def middle_ids(
    tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str, profile_name: str
) -> list[int]:
    """Code with a gap, the model to write what stands in it; without suffix, code to go on with.

    Raises:
        RoleError: There is a suffix, and the model has no marks for the middle.
    """
    if not suffix:
        return plain_ids(tokenizer, prefix)
    vocabulary = tokenizer.get_vocab()
    for marks in _MIDDLE_MARKS:
        if all(mark in vocabulary for mark in marks):
            before, after, middle = (vocabulary[mark] for mark in marks)
            return [
                before,
                *plain_ids(tokenizer, prefix),
                after,
                *plain_ids(tokenizer, suffix),
                middle,
            ]
    raise RoleError(
        f"{profile_name} has no tokens for filling in the middle, so it can only go on after a "
        "prefix. Leave the suffix empty, or set advisor.completion_model to a model that has "
        "them, such as starcoder2-3b."
    )


def middle_marks(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the marks for the middle: a completion that writes one has ended."""
    vocabulary = tokenizer.get_vocab()
    names = {mark for marks in _MIDDLE_MARKS for mark in marks} | {"<file_sep>", "<|file_sep|>"}
    return sorted(vocabulary[name] for name in names if name in vocabulary)


def _render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content.strip()} for m in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
    )
