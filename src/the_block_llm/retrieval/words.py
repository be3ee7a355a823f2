"""Word tokenization for search and scoring."""

import re
import unicodedata
from typing import Final

_CAMEL_CASE: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


def split_words(text: str) -> list[str]:
    """Split ``text`` into lower-case words; identifiers are split at case changes and underscores.

    >>> split_words("StateManager's trade-off in `sync_state()`: 2/3")
    ['state', "manager's", 'trade', 'off', 'in', 'sync', 'state', '2', '3']
    """
    normalized = _CAMEL_CASE.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'")
    return [word.lower() for word in _WORD.findall(normalized)]
