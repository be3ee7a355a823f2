"""Reduces a text to what teaches something, before its drop reason is decided."""

from typing import NamedTuple

from the_block_llm.pipelines.git_ingest.filters.notebooks import (
    is_notebook,
    reduce_notebook,
    reduce_notebook_patch,
)
from the_block_llm.pipelines.git_ingest.filters.payloads import (
    PayloadCounts,
    has_words,
    may_hold_payload,
    remove_payloads,
)

_HUNK = b"@@ -"


class ReducedText(NamedTuple):
    """A text without payloads, and what was removed."""

    text: bytes
    removed: PayloadCounts
    is_empty: bool
    """Nothing is left to read."""


def reduce_text(path: str, text: bytes) -> ReducedText | None:
    """Remove binary data and, from notebooks, output that is no text.

    Args:
        path: Path of the file.
        text: The file or the hunks of its patch, in an encoding that extends ASCII.

    Returns:
        The reduced text, or None if there is nothing to remove.
    """
    is_json_notebook = is_notebook(path)
    if not is_json_notebook and may_hold_payload(text) is None:
        return None
    removed = PayloadCounts()
    reduced = remove_payloads(text, removed)
    if is_json_notebook:
        reduce = reduce_notebook_patch if text.startswith(_HUNK) else reduce_notebook
        n_bytes = len(reduced)
        # Bytes of an encoding that is not determined yet pass through unchanged.
        reduced_json = reduce(reduced.decode("utf-8", "surrogateescape"))
        reduced = reduced_json.encode("utf-8", "surrogateescape")
        if len(reduced) < n_bytes:
            removed.add("notebook output", n_bytes - len(reduced))
    if not removed.removed:
        return None
    return ReducedText(reduced, removed, is_empty=not has_words(reduced))
