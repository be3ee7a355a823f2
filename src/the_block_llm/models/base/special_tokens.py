"""Domain special tokens: added to the tokenizer and used in the chat template.

Their embeddings are trained with the adapter (``adapter/added_embeddings.py``).
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
DOMAIN_TOKENS: Final = (CODE_START, CODE_END, ANALYSIS, QUESTION)

# Prepended to the chat template: user and assistant messages start with the same tokens as in the
# training rows.
_CHAT_TEMPLATE_PREFIX: Final = (
    "{%- set opened = namespace(turns=[]) -%}"
    "{%- for turn in messages -%}"
    "{%- set mark = {'user': '" + QUESTION + "', 'assistant': '" + ANALYSIS + "'}"
    ".get(turn['role'], '') -%}"
    "{%- set opened.turns = opened.turns + [dict(turn, content=mark ~ turn['content'])] -%}"
    "{%- endfor -%}"
    "{%- set messages = opened.turns -%}"
)


def add_tokens(tokenizer: "PreTrainedTokenizerFast", tokens: Mapping[str, int]) -> None:
    """Add ``tokens`` to the tokenizer and its chat template.

    Args:
        tokenizer: Modified in place.
        tokens: Ids by token, as used in the training rows.

    Raises:
        ProfileError: The tokenizer assigns other ids.
    """
    if not tokens:
        return
    tokenizer.add_tokens(sorted(tokens, key=tokens.__getitem__), special_tokens=True)
    assigned = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokens}
    if assigned != dict(tokens):
        raise ProfileError(
            f"The rows contain the added tokens {dict(tokens)}, but the tokenizer assigns the ids "
            f"{assigned}: it is not the one that made the rows. Build the rows again with "
            "`kedro run --pipeline=sequence_build`."
        )
    if {QUESTION, ANALYSIS} <= tokens.keys() and tokenizer.chat_template is not None:
        tokenizer.chat_template = _CHAT_TEMPLATE_PREFIX + tokenizer.chat_template
