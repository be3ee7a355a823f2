"""Parameters of a training run; what is unset follows the model profile."""

from pydantic import BaseModel, Field

from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import TrainingValues
from the_block_llm.models.resource_limits import EngineChoice, LayerChoice


class QloraTrainParams(BaseModel, frozen=True, extra="forbid"):
    """What one run may override."""

    target_tokens: int | None = Field(default=None, ge=1)
    """Trained tokens to aim at; epochs follow from it."""
    min_epochs: int | None = Field(default=None, ge=1)
    """At least so many, whatever the token budget says."""
    max_epochs: int | None = Field(default=None, ge=1)
    """At most so many."""
    force_epochs: int | None = Field(default=None, ge=1)
    """Train for exactly this many epochs, whatever the token budget says."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on so many rows, chosen evenly over the table."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between validations; a validation that is the best so far is also saved."""
    save_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints: what a killed run may lose at most."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """End after so many validations without a better one; none: train to the end. Small values
    save time, and may end a run in a dip that it would have left."""
    preflight_only: bool = False
    """Stop after the table that says what the run would take."""
    restart_training: bool = False
    """Discard the profile's unfinished run instead of going on with it."""
    engine: EngineChoice = "auto"
    """Which code computes: layerwise where it knows the architecture, or plain transformers; auto
    is layerwise on a GPU. Both give the same adapter up to rounding."""
    layers: LayerChoice = "auto"
    """Whether the frozen layers stay on the GPU or are streamed from host memory, which is
    slower and leaves room for rows sixteen times as long; auto takes the fastest that fits.
    ``sharded``: each of ``n_processes`` keeps a share of them (FSDP2, plain engine), for models
    that are larger than a GPU; costs sending every layer round twice a pass."""
    memory_cap_gib: float | None = Field(default=None, gt=0.2)
    """GPU memory that PyTorch may take; none: what is free. 7.0 is an 8 GB card with a display."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """Host memory for streamed layers and waiting states; none: what is free."""
    micro_batch_rows: int | None = Field(default=None, ge=1)
    """Rows that go through the model together; none: what fits."""
    n_processes: int = Field(default=1, ge=1)
    """Processes that share each step, one a GPU; must divide the effective batch."""
    probe_questions: tuple[str, ...] = ()
    """Asked before training and after every epoch; the answers are kept to be read."""
    probe_new_tokens: int = Field(default=48, ge=1)
    """Longest answer to a probe question; each token costs a pass through the model."""
    tensorboard: bool = False
    """Write curves for TensorBoard into a folder beside the adapters; needs the package."""
    work_folder: str
    """Where the checkpoints of a run in progress lie, so that a killed run resumes."""

    def apply_to(self, values: TrainingValues) -> TrainingValues:
        """The profile's training values with this run's overrides in place.

        Raises:
            ParameterError: Together they contradict each other.
        """
        names = (
            "target_tokens",
            "min_epochs",
            "max_epochs",
            "max_rows",
            "eval_steps",
            "save_steps",
            "micro_batch_rows",
        )
        overrides = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        try:
            return TrainingValues.model_validate({**values.model_dump(), **overrides})
        except ValueError as error:
            raise ParameterError(
                f"qlora_train and the profile do not fit together: {error}"
            ) from error
