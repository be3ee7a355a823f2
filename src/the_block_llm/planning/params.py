"""Parameters of the estimate: rates and prices."""

from pydantic import BaseModel, Field


class TrainingSpeed(BaseModel, frozen=True, extra="forbid"):
    """Training speed of a profile on one GPU."""

    profile: str
    """Name of the model profile."""
    device: str = "GPU"
    """The GPU that it was measured on."""
    tokens_per_second: float = Field(gt=0)
    """On one such GPU."""


class Rates(BaseModel, frozen=True, extra="forbid"):
    """Measured rates; ``benchmarks/rates.py`` measures those of another machine.

    A MB is a million bytes of kept text: the files at the ref and the patches of the history.
    """

    ingest_cpu_s_per_repository: float = Field(ge=0)
    """To find, open and list one repository, whatever its size."""
    ingest_cpu_s_per_mb: float = Field(gt=0)
    """To read, filter and write the text."""
    screening_cpu_s_per_mb: float = Field(ge=0)
    """To compare documents for leaks and duplicates."""
    rendering_cpu_s_per_mb: float = Field(ge=0)
    """To render documents, tokenization included; spread over the cores."""
    packing_cpu_s_per_mb: float = Field(ge=0)
    """To pack rows."""
    training_tokens_per_mb: float = Field(gt=0)
    """Tokens of training rows per MB, with the default mix and cut-off."""
    training: tuple[TrainingSpeed, ...]
    """Training speeds, by profile."""


class PlanningParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``planning``."""

    rates: Rates
    """Measured rates."""
    core_hour_price: float = Field(ge=0)
    """Price of a core hour, in any currency."""
    gpu_hour_price: float = Field(ge=0)
    """Price of a GPU hour, in the same currency."""
    median_repository_mb: float = Field(gt=0)
    """Median kept text of a repository, for a simulation without ``--gigabytes``."""
    repository_sigma: float = Field(gt=0)
    """Standard deviation of the log of sizes. 1.9: one in a hundred is 80 times the median."""
