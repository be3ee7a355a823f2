"""Parameters of sequence_build, validated before any data is read."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from pydantic import BaseModel, Field, field_validator, model_validator

from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfile


class Mix(BaseModel, frozen=True, extra="forbid"):
    """Maximum fraction of the training tokens for each kind of document, 0 to 1.

    A kind above its maximum loses its longest documents first, since these are mostly generated
    text; commits lose the patches longer than a row first, oldest first. A kind below its maximum
    is complete. Zero leaves a kind out.
    """

    file: float = Field(default=1.0, ge=0, le=1)
    """Files of the snapshot."""
    commit: float = Field(default=0.5, ge=0, le=1)
    """Commits with their patches."""
    chat: float = Field(default=1.0, ge=0, le=1)
    """Questions with their answers."""

    @model_validator(mode="after")
    def _check_sum(self) -> "Mix":
        if self.file + self.commit + self.chat < 1:
            raise ValueError(
                "the maximum fractions of file, commit and chat must sum to at least 1"
            )
        return self


class CurriculumStage(BaseModel, frozen=True, extra="forbid"):
    """One stage of a curriculum."""

    context_tokens: int = Field(ge=64, le=131_072)
    """Capacity of a row, in tokens."""
    epochs: int = Field(default=2, ge=1)
    """Number of epochs of the stage."""


_DEFAULT_STAGES: Final = tuple(CurriculumStage(context_tokens=n) for n in (256, 512, 1024))


class SequenceBuildParams(BaseModel, frozen=True, extra="forbid"):
    """How documents are rendered from a repository and packed into rows."""

    context_tokens: int | None = Field(default=None, ge=64, le=131_072)
    """Capacity of a row, in tokens; null: from the profile. Longer rows fit more of a module and
    take more memory."""
    overlap_tokens: int | None = Field(default=None, ge=0)
    """Tokens repeated as context, outside the loss, where a document continues in another row;
    null: from the profile. More of them give more context and leave less of each row to train
    on."""
    cutoff: float | str | None = 0.85
    """End of the training period: a fraction of the commits, or a date. What comes after is held
    out for evaluation. Null trains on everything and leaves nothing to evaluate on."""
    validation_fraction: float = Field(default=0.05, gt=0, le=0.5)
    """Fraction of the commits before the cutoff used for validation, which chooses the best
    checkpoint."""
    mix: Mix = Mix()
    incremental_context_sequences: int = Field(default=2, ge=0, le=20)
    """Number of earlier changes to the same files listed as context at the head of a commit."""
    domain_marks: bool = False
    """Mark code, questions and answers with special tokens added to the tokenizer. Their embeddings
    are trained; their ids are stored with the rows, in ``row_facts``."""
    fim_share: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the files rendered as fill-in-the-middle for a completion model; 0: none."""
    fim_spm_share: float = Field(default=0.5, ge=0, le=1)
    """Fraction of their chunks in suffix-prefix-middle order instead of prefix-suffix-middle."""
    curriculum: bool | tuple[CurriculumStage, ...] = False
    """Stages with increasing row lengths; true: 256, 512 and 1024 tokens, two epochs each. Short
    rows come first; they are less full and need more steps."""
    leak_similarity: float = Field(default=0.7, gt=0, le=1)
    """Remove validation and held-out documents of which training contains this fraction of the
    lines, or text with this Jaccard similarity. Lower values find looser copies and leave less
    for evaluation."""
    token_cache_folder: str | None = None
    """Cache of token ids for later runs, at most 1 GiB; null: no cache."""
    work_folder: str | None = None
    """Folder for the documents of many repositories until their table is complete; null: a
    temporary folder. With execution.engine=ray it must be visible to every node."""
    only_repository: str | None = None
    """Build the corpus of this one of several ingested repositories; null: one corpus of all. Each
    corpus has separate output folders."""
    seed: int = 42
    """Random seed for question templates, sampling and fill-in-the-middle."""

    @property
    def stages(self) -> tuple[CurriculumStage, ...]:
        """The stages in order; empty without a curriculum."""
        if isinstance(self.curriculum, bool):
            return _DEFAULT_STAGES if self.curriculum else ()
        return self.curriculum

    @field_validator("curriculum")
    @classmethod
    def _check_stage_order(
        cls, value: bool | tuple[CurriculumStage, ...]
    ) -> bool | tuple[CurriculumStage, ...]:
        lengths = [] if isinstance(value, bool) else [stage.context_tokens for stage in value]
        if lengths != sorted(set(lengths)):
            raise ValueError(
                f"its stages have {lengths} tokens; each must be longer than the one before"
            )
        return value

    @field_validator("cutoff")
    @classmethod
    def _check_cutoff(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str):
            try:
                date.fromisoformat(value[:10])
            except ValueError:
                raise ValueError(
                    f"{value!r} is not a date; use a date such as 2026-01-31, a fraction, or null"
                ) from None
        elif value is not None and not 0 < value < 1:
            raise ValueError(
                f"{value} is not a fraction of the commits; it must be between 0 and 1"
            )
        return value


@dataclass(frozen=True)
class RowShape:
    """Row and overlap lengths, resolved from parameters and profile."""

    context_tokens: int
    overlap_tokens: int
    stage_tokens: tuple[int, ...] = ()
    """Capacity of the training rows of each curriculum stage; the last is ``context_tokens``."""

    def of_stage(self, stage: int) -> "RowShape":
        """Return the shape of the rows of one stage; stage 0 means no curriculum."""
        if stage == 0:
            return self
        context = self.stage_tokens[stage - 1]
        return RowShape(context, min(self.overlap_tokens, context // 4))


def row_shape(params: SequenceBuildParams, profile: ModelProfile) -> RowShape:
    """Resolve the row and overlap lengths.

    Raises:
        ParameterError: The overlap is more than half of the row, or the last stage of a
            curriculum differs from the row length.
    """
    stages = tuple(stage.context_tokens for stage in params.stages)
    context = params.context_tokens or (stages[-1] if stages else profile.context_tokens)
    if stages and stages[-1] != context:
        raise ParameterError(
            f"The last stage of sequence_build.curriculum has rows of {stages[-1]} tokens, and "
            f"sequence_build.context_tokens is {context}. Make them equal, or leave "
            "context_tokens null."
        )
    overlap = params.overlap_tokens
    if overlap is None:
        # A quarter, as in every profile, if only the row was shortened.
        overlap = min(profile.overlap_tokens, context // 4)
    if overlap * 2 > context:
        raise ParameterError(
            f"sequence_build.overlap_tokens {overlap} is more than half of context_tokens "
            f"{context}: rows would repeat more than they add. Use at most {context // 2}."
        )
    return RowShape(context_tokens=context, overlap_tokens=overlap, stage_tokens=stages)
