"""Parameters of the pipeline ``export``."""

from pathlib import Path

from pydantic import BaseModel, Field


class ExportParams(BaseModel, frozen=True, extra="forbid"):
    """Target folder of the exported model, and how closely it must match the adapter."""

    folder: Path
    """Folder of exported models, with a subfolder for each profile and version."""
    shard_mib: int = Field(ge=1)
    """Maximum size of a weights file; writing needs about as much memory."""
    probes: int = Field(ge=1)
    """Number of probes on which the merged model is compared with the adapter."""
    answer_tokens: int = Field(ge=1)
    """Tokens of each answer that are compared."""
    max_nll_difference: float = Field(gt=0)
    """Maximum mean difference between the two models' log-probabilities of the answers' tokens."""
    min_token_agreement: float = Field(gt=0, le=1)
    """Minimum fraction of the answers' tokens that both models choose greedily."""
