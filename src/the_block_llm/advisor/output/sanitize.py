"""Sanitizing of model and repository text before it is printed to a terminal."""

import re
from typing import Final

# Characters that move the cursor, change colors or hide text; line breaks and tabs are allowed.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def sanitize_text(text: str) -> str:
    r"""Replace each control character in ``text`` with U+FFFD.

    >>> sanitize_text("a\x1b[31mb\n")
    'a�[31mb\n'
    """
    return _CONTROL.sub("�", text)
