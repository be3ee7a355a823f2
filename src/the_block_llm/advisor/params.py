"""What the advisor answers with, and how much of everything."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field


class AdvisorBudget(BaseModel, frozen=True, extra="forbid"):
    """How much one answer may take; by device, since a CPU reads and writes slowly."""

    passages: int = Field(ge=1, le=100)
    """Passages put before a question, at most."""
    passage_tokens: int = Field(ge=1)
    """Tokens of all of them together."""
    prompt_tokens: int = Field(ge=64)
    """Longest prompt: passages, question and earlier turns."""
    new_tokens: int = Field(ge=1)
    """Longest answer."""


class AdvisorParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of ``kedro ask``, ``kedro serve`` and :class:`~.advisor.Advisor`."""

    completion_model: str
    """Profile, or folder of weights, that completes code."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """By profile, the adapter version to use; the newest where none is named."""
    memory_cap_gib: float = Field(gt=0)
    """All weights on one device together; a model that is not needed makes room."""
    passage_characters: int = Field(ge=100, le=100_000)
    """Where files are cut; smaller passages are found more exactly and say less."""
    cpu: AdvisorBudget
    cuda: AdvisorBudget
    repetition_penalty: float = Field(ge=1, le=2)
    """Of answers; divides the logit of each token that the answer holds already, 1 does nothing.
    Small models without it say one sentence for ever."""
    perplexity_lines: int = Field(ge=1, le=50)
    """Lines of code that a hybrid analysis asks about."""
    tables_folder: Path
    """Where git_ingest wrote commits, file_changes and snapshot_files."""
    repository_file: Path
    """git_ingest's description of the repository."""
    adapters_folder: Path
    """Trained adapters, a folder a profile."""
    index_folder: Path
    """The search index; built when it is first needed, and again when the tables change."""
    serve: "ServeParams"

    def budget_for(self, device: Literal["cpu", "cuda"]) -> AdvisorBudget:
        """The device's budget."""
        return self.cuda if device == "cuda" else self.cpu


class ServeParams(BaseModel, frozen=True, extra="forbid"):
    """Limits of ``kedro serve``."""

    max_body_kib: int = Field(ge=1)
    """Longest request; beyond it 413."""
    max_queued: int = Field(ge=0)
    """Requests that may wait for their turn; further ones get 429."""
    queue_timeout_s: float = Field(gt=0)
    """Longest wait for a turn; beyond it 503."""
    answer_timeout_s: float = Field(gt=0)
    """Longest time to make one answer; beyond it 504."""
    shutdown_timeout_s: float = Field(gt=0)
    """Time that answers under way get to finish when the server is stopped."""


AdvisorParams.model_rebuild()
