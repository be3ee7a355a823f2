"""The words of a text, as search and scores compare them."""

import re
import unicodedata
from typing import Final

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


def split_words(text: str) -> list[str]:
    """The words of ``text`` in lower case; identifiers fall into their parts.

    >>> split_words("StateManager's trade-off in `sync_state()`: 2/3")
    ['state', "manager's", 'trade', 'off', 'in', 'sync', 'state', '2', '3']
    """
    normal = _CAMEL.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'")
    return [word.lower() for word in _WORD.findall(normal)]
