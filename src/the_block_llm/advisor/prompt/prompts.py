"""Prompts as token ids; text of users and repositories is never encoded as a special token."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from transformers import PreTrainedTokenizerFast

from the_block_llm.errors import ProfileError, RoleError
from the_block_llm.retrieval.passages import Passage

# Fill-in-the-middle tokens of StarCoder, then of Qwen: prefix, suffix, middle.
_FIM_TOKENS: Final = (
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
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def passage_heading(passage: Passage) -> str:
    r"""Return the heading of a passage in the prompt, in the form in which it is to be cited.

    >>> passage_heading(Passage("src/a.rs", "x\ny\n", first_line=3))
    '[src/a.rs:3-4]'
    """
    if passage.first_line is None:
        return f"[{passage.source[:12]}]"
    if passage.first_line == passage.last_line:
        return f"[{passage.source}:{passage.first_line}]"
    return f"[{passage.source}:{passage.first_line}-{passage.last_line}]"


def format_question(
    question: str, context: str, passages: Sequence[Passage], project: str | None
) -> str:
    """Return the content of the last user message: passages, context, then the question."""
    parts = []
    if passages:
        excerpts = "\n\n".join(f"{passage_heading(p)}\n{p.text.strip()}" for p in passages)
        parts += [f"Excerpts from {project}:\n\n{excerpts}", _INSTRUCTION.format(project=project)]
    return "\n\n".join([*parts, *filter(None, [context.strip()]), question])


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], profile_name: str
) -> list[int]:
    """Encode a conversation with the model's chat template, up to the start of the answer.

    Special tokens spelled in a message (``<|im_end|>``) are encoded as ordinary text: neither a
    question nor a file of the repository can end its turn and impersonate another role.

    Raises:
        ProfileError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ProfileError(
            f"The tokenizer of {profile_name} has no chat template, which questions need. Use "
            "the instruct variant of the model, or give the profile the role completion."
        )
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(token in message.content for message in messages for token in special):
        return list(tokenizer(_render(tokenizer, messages), add_special_tokens=False)["input_ids"])
    # Render the template with placeholders that no text can contain, and encode each content
    # separately in their place.
    placeholders = [f"\ue000{uuid.uuid4().hex}\ue001" for _ in messages]
    templated = [
        Message(m.role, placeholder) for m, placeholder in zip(messages, placeholders, strict=True)
    ]
    rest, ids = _render(tokenizer, templated), []
    for message, placeholder in zip(messages, placeholders, strict=True):
        template_text, _, rest = rest.partition(placeholder)
        ids += tokenizer(template_text, add_special_tokens=False)["input_ids"]
        ids += encode_plain(tokenizer, message.content.strip())
    return [*ids, *tokenizer(rest, add_special_tokens=False)["input_ids"]]


def encode_plain(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode ``text`` without special tokens, also where it spells one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


def encode_fim(
    tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str, profile_name: str
) -> list[int]:
    """Encode a fill-in-the-middle prompt; without a suffix, the prefix alone to continue.

    Raises:
        RoleError: There is a suffix, and the model has no fill-in-the-middle tokens.
    """
    if not suffix:
        return encode_plain(tokenizer, prefix)
    vocabulary = tokenizer.get_vocab()
    for tokens in _FIM_TOKENS:
        if all(token in vocabulary for token in tokens):
            prefix_id, suffix_id, middle_id = (vocabulary[token] for token in tokens)
            return [
                prefix_id,
                *encode_plain(tokenizer, prefix),
                suffix_id,
                *encode_plain(tokenizer, suffix),
                middle_id,
            ]
    raise RoleError(
        f"{profile_name} has no fill-in-the-middle tokens, so it can only continue a prefix. "
        "Leave the suffix empty, or set advisor.completion_model to a model that has them, such "
        "as starcoder2-3b."
    )


def fim_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of fill-in-the-middle and file separator tokens, which end a completion."""
    vocabulary = tokenizer.get_vocab()
    names = {token for tokens in _FIM_TOKENS for token in tokens}
    names |= {"<file_sep>", "<|file_sep|>"}
    return sorted(vocabulary[name] for name in names if name in vocabulary)


def _render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content.strip()} for m in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
    )
