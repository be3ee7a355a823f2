"""What an estimate reckons with."""

from pydantic import BaseModel, Field


class TrainingSpeed(BaseModel, frozen=True, extra="forbid"):
    """How fast one GPU trains a profile."""

    profile: str
    """Its name."""
    tokens_per_second: float = Field(gt=0)
    """Of one GPU."""


class Rates(BaseModel, frozen=True, extra="forbid"):
    """Measured rates; ``benchmarks/rates.py`` prints those of another machine.

    A MB is a million bytes of kept text: the files at the ref and the patches of the history.
    """

    ingest_cpu_s_per_repository: float = Field(ge=0)
    """To find, open and list one, whatever its size."""
    ingest_cpu_s_per_mb: float = Field(gt=0)
    """To read, judge and write the text."""
    screening_cpu_s_per_mb: float = Field(ge=0)
    """Of one core: documents are compared in one process."""
    rendering_cpu_s_per_mb: float = Field(ge=0)
    """Of documents, tokenising included; shared out over the cores."""
    packing_cpu_s_per_mb: float = Field(ge=0)
    """Of one core."""
    training_tokens_per_mb: float = Field(gt=0)
    """Tokens of training rows that come of a MB, with the default mix and cut-off."""
    training: tuple[TrainingSpeed, ...]
    """How fast one GPU trains, by profile."""


class PlanningParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``planning``."""

    rates: Rates
    """Measured."""
    core_hour_price: float = Field(ge=0)
    """Of one core, in whatever currency."""
    gpu_hour_price: float = Field(ge=0)
    """Of one GPU, in the same currency."""
    median_repository_mb: float = Field(gt=0)
    """Kept text of the middle repository, of a simulation whose gigabytes are not given."""
    repository_sigma: float = Field(gt=0)
    """Spread of the logarithm of sizes. 1.9: one repository in a hundred is 80 times the middle."""
