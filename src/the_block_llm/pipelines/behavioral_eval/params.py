"""What an evaluation asks, of which arms, and how much of it."""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, model_validator

Arm = Literal["base", "base_retrieval", "tuned", "tuned_retrieval"]
ARMS: Final[tuple[Arm, ...]] = get_args(Arm)


def _split(names: Any) -> Any:
    """``--params`` cannot hold a list, so names may come as words of one text."""
    return names.split() if isinstance(names, str) else names


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Sampling(BaseModel, frozen=True, extra="forbid"):
    """How answers are decoded, the same for every arm."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 is greedy: one answer, repeatable. Above 0, give several seeds: one draw is noise."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """With a temperature, draw from the likeliest tokens that make up this share."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """One answer a seed; greedy decoding uses the first only."""


class Budget(BaseModel, frozen=True, extra="forbid"):
    """How much is measured. More items show smaller differences and take longer."""

    probes: int = Field(ge=1)
    """Questions put to each arm, spread evenly over the categories."""
    new_tokens: int = Field(ge=8, le=4096)
    """Longest answer."""
    held_out_rows: int = Field(ge=1)
    """Packed rows of held-out text, each measured once an arm."""
    task_items: int = Field(ge=0)
    """Items of each task made from the repository."""
    general_items: int = Field(ge=0)
    """Texts and questions that have nothing to do with it, of those shipped."""
    tasks_with_retrieval: bool
    """Put the tasks to the arms with retrieval too; long prompts make up most of the time."""
    passages: int = Field(ge=1)
    """Passages that retrieval puts before a question."""
    passage_characters: int = Field(ge=80)
    """Longest passage."""
    batch_rows: int = Field(ge=1)
    """Prompts answered together, at most: 8 are four times as fast as 1 on a CPU."""
    cache_gib: float = Field(gt=0)
    """Most memory for their keys and values, on top of the model's own; decides the batch for
    large models."""


class BehavioralEvalParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the pipeline ``behavioral_eval``."""

    suites: Names = Field(min_length=1)
    """Names of files in conf/base/suites; a list, or one text of words. Those for the other role
    of model are passed over."""
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_split)] = ("base", "tuned")
    """Who is asked; base and tuned always are, since the verdict compares them."""
    further_models: Names = ()
    """Put to the same items, without retrieval: ``VERSION`` of an earlier adapter,
    ``PROFILE@VERSION``, ``PROFILE@base``. Each takes as long as one arm and its loading."""
    max_items: int | None = Field(default=None, ge=1)
    """Cap on every budget below that counts items; none: the budget of the device."""
    sampling: Sampling = Sampling()
    budgets: dict[Literal["cpu", "cuda"], Budget]
    """By device type: a CPU does about 500 tokens a second with the embedded default."""
    resamples: int = Field(default=2000, ge=200)
    """Of the bootstrap and of the sign-flip test; p-values are no finer than 1 / resamples."""
    calibration_shuffles: int = Field(default=200, ge=0)
    """Random swaps of the arms, to see how often chance alone would have said better."""
    result_cache_folder: str
    """Results are kept here as they come; a killed run goes on from them."""
    trend_folder: str
    """One small file an evaluated adapter is kept here, for the trend in the report."""
    seed: int = 42
    """Of everything drawn: which items, which resamples."""

    @model_validator(mode="after")
    def _check_together(self) -> "BehavioralEvalParams":
        missing = {"base", "tuned"} - set(self.arms)
        if missing:
            raise ValueError(
                f"arms must hold base and tuned, whose comparison is the verdict; "
                f"{sorted(missing)} missing"
            )
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an arm is named twice in {list(self.arms)}")
        absent = {"cpu", "cuda"} - set(self.budgets)
        if absent:
            raise ValueError(f"budgets lacks {sorted(absent)}")
        return self

    def budget_for(self, device_type: str) -> Budget:
        """The budget for a device, every count of items capped by ``max_items``."""
        budget = self.budgets["cuda" if device_type == "cuda" else "cpu"]
        if self.max_items is None:
            return budget
        counted = ("probes", "held_out_rows", "task_items", "general_items")
        return budget.model_copy(
            update={name: min(getattr(budget, name), self.max_items) for name in counted}
        )
