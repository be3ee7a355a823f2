"""Where an exported model goes, and how near it must come to what was trained."""

from pathlib import Path

from pydantic import BaseModel, Field


class ExportParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the pipeline ``export``."""

    folder: Path
    """Exported models, a folder a profile and version."""
    shard_mib: int = Field(ge=1)
    """Largest file of weights; as much memory is needed while writing."""
    probes: int = Field(ge=1)
    """Questions that merged and adapter both answer."""
    answer_tokens: int = Field(ge=1)
    """Tokens of each answer that are compared."""
    max_nll_difference: float = Field(gt=0)
    """Mean difference of the two models' log-probabilities of an answer's tokens, at most."""
    min_token_agreement: float = Field(gt=0, le=1)
    """Share of an answer's tokens that both models would choose, at least."""
