"""What decides the rows of a history besides its commits."""

from dataclasses import dataclass

from the_block_llm.pipelines.git_ingest.filters.gitattributes import Attributes
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import AuthorNaming


@dataclass(frozen=True)
class HistoryOptions:
    """Part of the name of every finished piece."""

    repo: str
    naming: AuthorNaming
    redact: bool
    max_patch_bytes: int
    max_message_bytes: int
    attributes: Attributes
