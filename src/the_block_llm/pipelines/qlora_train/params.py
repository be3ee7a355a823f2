"""Parameters of the pipeline ``qlora_train``; unset values follow the model profile."""

from pydantic import BaseModel, Field

from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import TrainingValues
from the_block_llm.models.resource_limits import EngineChoice, LayerChoice


class QloraTrainParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of a training run, some of which override the model profile."""

    target_tokens: int | None = Field(default=None, ge=1)
    """Trained tokens to aim at; epochs follow from it."""
    min_epochs: int | None = Field(default=None, ge=1)
    """Minimum number of epochs, regardless of the token budget."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Maximum number of epochs."""
    force_epochs: int | None = Field(default=None, ge=1)
    """Exact number of epochs, regardless of the token budget."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on at most this many rows, evenly spaced over the table."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between validations; each new best is also saved as a checkpoint."""
    save_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints: the most that a killed run loses."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without an improvement; null: train to the end. Small
    values save time, and may stop a run whose loss would have improved again."""
    preflight_only: bool = False
    """Stop after the table that shows what the run needs."""
    restart_training: bool = False
    """Discard the profile's unfinished run instead of resuming it."""
    engine: EngineChoice = "auto"
    """Engine that computes forward and backward passes: ``layerwise`` for the architectures it
    supports, or ``plain`` transformers; auto is layerwise on a GPU. Both produce the same adapter
    up to rounding."""
    layers: LayerChoice = "auto"
    """Whether the frozen layers stay on the GPU (``resident``) or are ``streamed`` from host
    memory, which is slower and fits rows sixteen times as long; auto takes the fastest that fits.
    ``sharded``: each of ``n_processes`` stores a shard of them (FSDP2, plain engine), for models
    that are larger than a GPU, at the cost of two all-gathers of every layer per pass."""
    memory_cap_gib: float | None = Field(default=None, gt=0.2)
    """GPU memory limit of PyTorch; null: the free memory. 7.0 suits an 8 GB card with a display."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """Host memory for streamed layers and offloaded activations; null: the free memory."""
    micro_batch_rows: int | None = Field(default=None, ge=1)
    """Rows of a forward pass; null: the memory plan chooses."""
    n_processes: int = Field(default=1, ge=1)
    """Data-parallel processes, one per GPU; must divide the effective batch."""
    probe_questions: tuple[str, ...] = ()
    """Prompts of the samples that are generated before training and after every epoch."""
    probe_new_tokens: int = Field(default=48, ge=1)
    """Maximum tokens of each sample; every token costs a pass through the model."""
    tensorboard: bool = False
    """Write TensorBoard curves into a folder next to the adapters; needs the package."""
    work_folder: str
    """Folder of the checkpoints of a run in progress, from which a killed run resumes."""

    def apply_to(self, values: TrainingValues) -> TrainingValues:
        """Return the profile's training values with this run's overrides.

        Raises:
            ParameterError: The overrides contradict the profile.
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
                f"The parameters of qlora_train contradict the model profile: {error}"
            ) from error
