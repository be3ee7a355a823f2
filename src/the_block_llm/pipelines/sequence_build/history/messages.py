"""What a commit says of itself, without what says nothing.

A subject such as "local changes" or "Merge pull request #7" is left out, and so are trailers;
the body under it may still say what was done, as the description of a pull request does.
"""

import re
from typing import Final

from the_block_llm.pipelines.sequence_build.history.commits import Commit

_TRAILER: Final = re.compile(
    r"^(?:Signed-off-by|Co-authored-by|Reviewed-by|Acked-by|Tested-by|Reported-by|Cc|Change-Id"
    r"|Pull-Request|PR-URL|Reviewed-on|git-svn-id):[^\n]*$\n?",
    re.MULTILINE | re.IGNORECASE,
)
_MERGED: Final = re.compile(
    r"^(?:merge|merging|bring|bringing|sync|syncing|update from)\b[^\n]{0,100}"
    r"\b(?:branch|remote|main|master|up to date|pull request)\b[^\n]*$",
    re.IGNORECASE,
)
_HEADLINE_CHARACTERS: Final = 120
_FEWEST_WORDS: Final = 5  # of a body whose subject says nothing


def message_of(commit: Commit) -> str:
    """Subject and body as far as they say something; empty where they do not."""
    body = _plain(commit.body)
    subject = _plain(commit.subject)
    if commit.informative and not _MERGED.match(subject):
        # A subject that git broke in two goes on in the body.
        return f"{subject}\n\n{body}".strip()
    says_nothing = len(body.split()) < _FEWEST_WORDS or _MERGED.match(body) is not None
    return "" if says_nothing else body


def headline_of(commit: Commit) -> str:
    """The first line of the message, cut after a sentence or a word where it is long."""
    line = message_of(commit).partition("\n")[0].strip()
    if len(line) <= _HEADLINE_CHARACTERS:
        return line
    start = line[:_HEADLINE_CHARACTERS]
    sentence, stop, _ = start.rpartition(". ")
    return f"{sentence}." if stop else f"{start.rpartition(' ')[0]} …"


def _plain(text: str) -> str:
    # Some tools write the two characters \n where a line should end.
    lines = text.replace("\\n", "\n") if "\\n" in text and "\n" not in text.strip() else text
    return _TRAILER.sub("", lines).strip()
