"""Name and message of a commit as they were written.

git converts them from the encoding that the commit declares, also if it is not theirs.
"""

import re
from typing import Final

from the_block_llm.pipelines.git_ingest.git.diff_parser import CommitHeader

_AUTHOR: Final = re.compile(rb"^author (.*?) ?<", re.MULTILINE)
_BLANK_LINES: Final = re.compile(rb"\n(?:[ \t\r]*\n)+")


def restore_original_text(header: CommitHeader, commit: bytes) -> CommitHeader:
    """Return ``header`` with the bytes of subject, body and name in the commit object.

    Args:
        header: Fields as git prints them.
        commit: The commit object.
    """
    head, _, message = commit.partition(b"\n\n")
    subject, *rest = _BLANK_LINES.split(message.lstrip(b"\n"), maxsplit=1)
    author = _AUTHOR.search(head)
    name = author[1] if author is not None else header.author_name
    return header._replace(
        subject=b" ".join(subject.split(b"\n")).strip(),
        body=rest[0] if rest else b"",
        author_name=name if _is_converted(name, header) else header.author_name,
    )


def _is_converted(name: bytes, header: CommitHeader) -> bool:
    """Return whether git's name is this one, converted, and not one from a mailmap."""
    try:
        return name.decode(header.encoding.decode()).encode() == header.author_name
    except (LookupError, UnicodeError):
        return False
