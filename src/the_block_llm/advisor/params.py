"""Parameters of the advisor: models, token limits, memory, server limits."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field


class AdvisorBudget(BaseModel, frozen=True, extra="forbid"):
    """Limits of one answer; set per device, since a CPU is slower than a GPU."""

    passages: int = Field(ge=1, le=100)
    """Retrieved passages put before a question, at most."""
    passage_tokens: int = Field(ge=1)
    """Token limit of all passages together."""
    prompt_tokens: int = Field(ge=64)
    """Token limit of the prompt: passages, question and earlier messages."""
    new_tokens: int = Field(ge=1)
    """Token limit of the answer."""


class AdvisorParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of ``kedro ask``, ``kedro serve`` and :class:`~.advisor.Advisor`."""

    completion_model: str
    """Model for code completion: a profile, or a folder of weights."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Adapter version to use, by profile; for other profiles the newest is used."""
    memory_cap_gib: float = Field(gt=0)
    """Limit for all weights on one device together; the least recently used model is evicted."""
    passage_characters: int = Field(ge=100, le=100_000)
    """Maximum length of a passage. Shorter passages are found more precisely and hold less."""
    cpu: AdvisorBudget
    cuda: AdvisorBudget
    repetition_penalty: float = Field(ge=1, le=2)
    """Divides the logits of tokens that are already in the answer; 1 turns it off. Without it
    small models repeat one sentence until the token limit."""
    perplexity_lines: int = Field(ge=1, le=50)
    """Number of lines that a hybrid analysis asks about."""
    tables_folder: Path
    """Folder of the tables commits, file_changes and snapshot_files, written by git_ingest."""
    repository_file: Path
    """Description of the repository, written by git_ingest."""
    adapters_folder: Path
    """Folder of the trained adapters, with a subfolder for each profile."""
    index_folder: Path
    """Folder of the search index, which is built on first use and rebuilt when a table changes."""
    serve: "ServeParams"

    def budget_for(self, device: Literal["cpu", "cuda"]) -> AdvisorBudget:
        """Return the limits for ``device``."""
        return self.cuda if device == "cuda" else self.cpu


class ServeParams(BaseModel, frozen=True, extra="forbid"):
    """Limits of ``kedro serve``."""

    max_body_kib: int = Field(ge=1)
    """Maximum size of a request body; a larger one gets status 413."""
    max_queued: int = Field(ge=0)
    """Maximum number of queued requests; further ones get status 429."""
    queue_timeout_s: float = Field(gt=0)
    """Maximum time in the queue; after it a request gets status 503."""
    answer_timeout_s: float = Field(gt=0)
    """Maximum time to generate one answer; after it a request gets status 504."""
    shutdown_timeout_s: float = Field(gt=0)
    """Time that running answers get to finish when the server is stopped."""


AdvisorParams.model_rebuild()
