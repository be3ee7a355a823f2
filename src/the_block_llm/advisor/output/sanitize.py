"""Text of models and repositories on a terminal."""

import re
from typing import Final

# Everything that could move the cursor, change colours or hide text; line breaks and tabs stay.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""``text`` with a visible stand-in for each control character.

    >>> printable("a\x1b[31mb\n")
    'a�[31mb\n'
    """
    return _CONTROL.sub("�", text)
