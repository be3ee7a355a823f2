"""The choices that decide what a model is shown, checked before anything is read."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from pydantic import BaseModel, Field, field_validator, model_validator

from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfile


class Mix(BaseModel, frozen=True, extra="forbid"):
    """The most that each kind of document may take of the training tokens, 0 to 1.

    A kind that has more loses its longest documents first: generated texts, of which a model
    learns least; commits lose the patches that are longer than a row, oldest first. One that has
    less stays whole. Zero leaves it out.
    """

    file: float = Field(default=1.0, ge=0, le=1)
    """Of files as they stand."""
    commit: float = Field(default=0.5, ge=0, le=1)
    """Of commits with their patches."""
    chat: float = Field(default=1.0, ge=0, le=1)
    """Of questions with their answers."""

    @model_validator(mode="after")
    def _check_together(self) -> "Mix":
        if self.file + self.commit + self.chat < 1:
            raise ValueError("the shares of file, commit and chat must add up to 1 or more")
        return self


class CurriculumStage(BaseModel, frozen=True, extra="forbid"):
    """One stage of a curriculum."""

    context_tokens: int = Field(ge=64, le=131_072)
    """Capacity of its rows."""
    epochs: int = Field(default=2, ge=1)
    """How often the trainer goes through it before the next."""


_THREE_STAGES: Final = tuple(CurriculumStage(context_tokens=n) for n in (256, 512, 1024))


class SequenceBuildParams(BaseModel, frozen=True, extra="forbid"):
    """How documents are made from a repository and packed into rows."""

    context_tokens: int | None = Field(default=None, ge=64, le=131_072)
    """Capacity of a row; none: the profile's. Longer rows show whole modules, and cost memory."""
    overlap_tokens: int | None = Field(default=None, ge=0)
    """Context repeated, unlearned, where a document goes on in another row; none: the profile's.
    More of it helps the model follow, and makes every row teach less."""
    cutoff: float | str | None = 0.85
    """Where training ends: a fraction of the commits, or a date. What comes after is kept for
    evaluation. None trains on everything, and then nothing is left to evaluate with."""
    validation_fraction: float = Field(default=0.05, gt=0, le=0.5)
    """Share of the commits before the cut-off that choose the best checkpoint."""
    mix: Mix = Mix()
    incremental_context_sequences: int = Field(default=2, ge=0, le=20)
    """Earlier changes to the same files that are named, unlearned, at the head of a commit."""
    domain_marks: bool = False
    """Mark code, questions and answers by tokens that are added to the tokenizer. They must be
    trained; how many there are stands beside the rows."""
    fim_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the files that a completion model learns with their middle last; 0: none."""
    fim_spm_share: float = Field(default=0.5, ge=0, le=1)
    """Share of those that put the suffix first, then prefix and middle."""
    curriculum: bool | tuple[CurriculumStage, ...] = False
    """Stages with rows of their own length, shortest first; true: 256, 512 and 1024 tokens,
    two epochs each. Short rows first learn wording, and cost steps that are less full."""
    leak_similarity: float = Field(default=0.7, gt=0, le=1)
    """Held-back documents go where training holds this share of their lines, or wording this
    like theirs. Lower finds looser copies, and takes more from evaluation."""
    token_cache_folder: str | None = None
    """Where token ids are kept for later runs, at most 1 GiB; none: tokenise everything anew."""
    work_folder: str | None = None
    """Where documents of many repositories lie until their table is whole; none: a temporary
    folder. With execution.engine=ray every node must see it."""
    only_repository: str | None = None
    """Build the corpus of this repository alone, of the several that were read; none: of all
    together. Its rows lie in folders of their own, beside those of other corpora."""
    seed: int = 42
    """Picks the wording of questions."""

    @property
    def stages(self) -> tuple[CurriculumStage, ...]:
        """The stages in order; none where there is no curriculum."""
        if isinstance(self.curriculum, bool):
            return _THREE_STAGES if self.curriculum else ()
        return self.curriculum

    @field_validator("curriculum")
    @classmethod
    def _stages_grow(
        cls, value: bool | tuple[CurriculumStage, ...]
    ) -> bool | tuple[CurriculumStage, ...]:
        lengths = [] if isinstance(value, bool) else [stage.context_tokens for stage in value]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"its stages have {lengths} tokens; each must be longer than the last")
        return value

    @field_validator("cutoff")
    @classmethod
    def _cutoff_is_a_share_or_a_date(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str):
            try:
                date.fromisoformat(value[:10])
            except ValueError:
                raise ValueError(
                    f"{value!r} is no date; write it as 2026-01-31, or give a fraction, or null"
                ) from None
        elif value is not None and not 0 < value < 1:
            raise ValueError(f"{value} is no share of the commits; it lies between 0 and 1")
        return value


@dataclass(frozen=True)
class RowShape:
    """The size of a row, once parameters and profile have had their say."""

    context_tokens: int
    overlap_tokens: int
    stage_tokens: tuple[int, ...] = ()
    """Capacity of the training rows of each curriculum stage; the last is ``context_tokens``."""

    def of_stage(self, stage: int) -> "RowShape":
        """The size of the rows of one stage; 0 is no stage."""
        if stage == 0:
            return self
        context = self.stage_tokens[stage - 1]
        return RowShape(context, min(self.overlap_tokens, context // 4))


def row_shape(params: SequenceBuildParams, profile: ModelProfile) -> RowShape:
    """Settle the size of a row.

    Raises:
        ParameterError: The overlap is more than half of the row, or the last stage of a
            curriculum is not as long as the row.
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
        # A quarter, as in every profile, where only the row was made shorter.
        overlap = min(profile.overlap_tokens, context // 4)
    if overlap * 2 > context:
        raise ParameterError(
            f"sequence_build.overlap_tokens {overlap} is more than half of context_tokens "
            f"{context}: rows would repeat more than they teach. Use at most {context // 2}."
        )
    return RowShape(context_tokens=context, overlap_tokens=overlap, stage_tokens=stages)
