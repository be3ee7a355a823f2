"""Marks of this project's own, which a tokenizer does not have, and how chats carry them.

They are added to the tokenizer; training gives each a vector (``token_rows.py``).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from the_block_llm.errors import ProfileError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CODE_START: Final = "<|code_start|>"
CODE_END: Final = "<|code_end|>"
ANALYSIS: Final = "<|analysis|>"
QUESTION: Final = "<|question|>"
DOMAIN_MARKS: Final = (CODE_START, CODE_END, ANALYSIS, QUESTION)

# Put before a chat template: questions and earlier answers open as they do in the rows.
_OPENED_TURNS: Final = (
    "{%- set opened = namespace(turns=[]) -%}"
    "{%- for turn in messages -%}"
    "{%- set mark = {'user': '" + QUESTION + "', 'assistant': '" + ANALYSIS + "'}"
    ".get(turn['role'], '') -%}"
    "{%- set opened.turns = opened.turns + [dict(turn, content=mark ~ turn['content'])] -%}"
    "{%- endfor -%}"
    "{%- set messages = opened.turns -%}"
)


def add_tokens(tokenizer: "PreTrainedTokenizerFast", tokens: Mapping[str, int]) -> None:
    """Add ``tokens``, under the ids that rows hold them by, and let chats carry the marks.

    Raises:
        ProfileError: The tokenizer gives them other ids.
    """
    if not tokens:
        return
    tokenizer.add_tokens(sorted(tokens, key=tokens.__getitem__), special_tokens=True)
    found = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokens}
    if found != dict(tokens):
        raise ProfileError(
            f"The rows hold the added tokens {dict(tokens)}, but the tokenizer gives them the ids "
            f"{found}: it is not the one that made the rows. Build them again with "
            "`kedro run --pipeline=sequence_build`."
        )
    if {QUESTION, ANALYSIS} <= tokens.keys() and tokenizer.chat_template is not None:
        tokenizer.chat_template = _OPENED_TURNS + tokenizer.chat_template
