"""Commit messages without boilerplate.

Trailers and uninformative subjects such as "local changes" or "Merge pull request #7" are removed.
The body is kept even then, since it may be the description of a pull request.
"""

import re
from typing import Final

from the_block_llm.pipelines.sequence_build.history.commits import Commit

_TRAILER: Final = re.compile(
    r"^(?:Signed-off-by|Co-authored-by|Reviewed-by|Acked-by|Tested-by|Reported-by|Cc|Change-Id"
    r"|Pull-Request|PR-URL|Reviewed-on|git-svn-id):[^\n]*$\n?",
    re.MULTILINE | re.IGNORECASE,
)
_MERGE_SUBJECT: Final = re.compile(
    r"^(?:merge|merging|bring|bringing|sync|syncing|update from)\b[^\n]{0,100}"
    r"\b(?:branch|remote|main|master|up to date|pull request)\b[^\n]*$",
    re.IGNORECASE,
)
_MAX_HEADLINE_CHARACTERS: Final = 120
_MIN_BODY_WORDS: Final = 5  # of a body under an uninformative subject


def commit_message(commit: Commit) -> str:
    """Return subject and body without uninformative parts; may be empty."""
    body = _clean(commit.body)
    subject = _clean(commit.subject)
    if commit.informative and not _MERGE_SUBJECT.match(subject):
        # A long subject may continue in the body.
        return f"{subject}\n\n{body}".strip()
    is_uninformative = len(body.split()) < _MIN_BODY_WORDS or _MERGE_SUBJECT.match(body) is not None
    return "" if is_uninformative else body


def commit_headline(commit: Commit) -> str:
    """Return the first line of the message, truncated after a sentence or word if it is long."""
    line = commit_message(commit).partition("\n")[0].strip()
    if len(line) <= _MAX_HEADLINE_CHARACTERS:
        return line
    start = line[:_MAX_HEADLINE_CHARACTERS]
    sentence, stop, _ = start.rpartition(". ")
    return f"{sentence}." if stop else f"{start.rpartition(' ')[0]} …"


def _clean(text: str) -> str:
    # Some tools write a literal backslash and n instead of a newline.
    lines = text.replace("\\n", "\n") if "\\n" in text and "\n" not in text.strip() else text
    return _TRAILER.sub("", lines).strip()
