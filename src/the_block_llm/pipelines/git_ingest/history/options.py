"""Options that decide the rows of a history."""

from dataclasses import dataclass

from the_block_llm.pipelines.git_ingest.filters.gitattributes import GitAttributes
from the_block_llm.pipelines.git_ingest.redaction.allow_list import AllowList
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import Pseudonymizer


@dataclass(frozen=True)
class HistoryOptions:
    """Options that decide the rows of a history; part of the name of every cached shard."""

    repo: str
    pseudonymizer: Pseudonymizer
    redact: bool
    allowed: AllowList
    max_patch_bytes: int
    max_message_bytes: int
    gitattributes: GitAttributes
    mailmap: str | None
    """Blob of the ``.mailmap`` that git applies to authors."""
