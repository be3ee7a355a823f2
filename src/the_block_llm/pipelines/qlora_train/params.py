"""Parameters of a training run; what is unset follows the model profile."""

from pydantic import BaseModel, Field

from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import TrainingValues


class QloraTrainParams(BaseModel, frozen=True, extra="forbid"):
    """What one run may override."""

    target_tokens: int | None = Field(default=None, ge=1)
    """Trained tokens to aim at; epochs follow from it."""
    min_epochs: int | None = Field(default=None, ge=1)
    max_epochs: int | None = Field(default=None, ge=1)
    force_epochs: int | None = Field(default=None, ge=1)
    """Train for exactly this many epochs, whatever the token budget says."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on so many rows, chosen evenly over the table."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps."""
    eval_steps: int | None = Field(default=None, ge=1)
    save_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints; a multiple of eval_steps."""
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
        )
        overrides = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        try:
            merged = TrainingValues.model_validate({**values.model_dump(), **overrides})
        except ValueError as error:
            raise ParameterError(
                f"qlora_train and the profile do not fit together: {error}"
            ) from error
        if merged.save_steps % merged.eval_steps:
            raise ParameterError(
                f"qlora_train.save_steps {merged.save_steps} is not a multiple of eval_steps "
                f"{merged.eval_steps}; the best checkpoint could not be kept. Set save_steps to "
                f"{merged.eval_steps * max(1, merged.save_steps // merged.eval_steps)}."
            )
        return merged
