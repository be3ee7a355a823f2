"""Parameters of the evaluation: suites, arms, and how much is measured."""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, model_validator

# An arm, as in a controlled trial: one configuration of the model under test.
Arm = Literal["base", "base_retrieval", "tuned", "tuned_retrieval"]
ARMS: Final[tuple[Arm, ...]] = get_args(Arm)


def _split_names(names: Any) -> Any:
    """Accept a space-separated string, since ``--params`` cannot hold a list."""
    return names.split() if isinstance(names, str) else names


NameList = Annotated[tuple[str, ...], BeforeValidator(_split_names)]


class Sampling(BaseModel, frozen=True, extra="forbid"):
    """Decoding settings for answers, the same for every arm."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 is greedy and reproducible. Above 0, give several seeds: a single sample is noisy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling: cumulative probability of the tokens sampled from at temperature > 0."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """One answer per seed; greedy decoding uses the first only."""


class DeviceBudget(BaseModel, frozen=True, extra="forbid"):
    """How much is measured on one type of device.

    More items detect smaller differences and take longer.
    """

    probes: int = Field(ge=1)
    """Questions asked of each arm, spread evenly over the categories."""
    new_tokens: int = Field(ge=8, le=4096)
    """Maximum length of an answer, in tokens."""
    held_out_rows: int = Field(ge=1)
    """Packed rows of held-out text, each measured once per arm."""
    task_items: int = Field(ge=0)
    """Items of each task built from the repository."""
    general_items: int = Field(ge=0)
    """Texts and questions of the bundled general-ability set."""
    tasks_with_retrieval: bool
    """Run the tasks in the arms with retrieval too; their long prompts dominate the run time."""
    passages: int = Field(ge=1)
    """Passages that retrieval prepends to a question."""
    passage_characters: int = Field(ge=80)
    """Maximum length of a passage, in characters."""
    batch_rows: int = Field(ge=1)
    """Maximum prompts per generation batch: 8 are four times as fast as 1 on a CPU."""
    cache_gib: float = Field(gt=0)
    """Maximum memory of the KV cache, on top of the model's own; limits the batch size of large
    models."""


class BehavioralEvalParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the pipeline ``behavioral_eval``."""

    suites: NameList = Field(min_length=1)
    """Names of files in conf/base/suites, as a list or a space-separated string. Suites for the
    other model role are skipped."""
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_split_names)] = ("base", "tuned")
    """Arms to evaluate; ``base`` and ``tuned`` are required, since the verdict compares them."""
    further_models: NameList = ()
    """Evaluated on the same items, without retrieval: ``VERSION`` of an earlier adapter,
    ``PROFILE@VERSION``, ``PROFILE@base``. Each takes as long as one arm plus loading the model."""
    max_items: int | None = Field(default=None, ge=1)
    """Cap on every item count of the budgets; ``None``: the budget of the device."""
    sampling: Sampling = Sampling()
    budgets: dict[Literal["cpu", "cuda"], DeviceBudget]
    """By device type; a CPU processes about 500 tokens/s with the embedded default model."""
    resamples: int = Field(default=2000, ge=200)
    """Resamples of the bootstrap and of the sign-flip test; the resolution of p-values is
    1 / resamples."""
    calibration_shuffles: int = Field(default=200, ge=0)
    """Negative controls: random swaps of the arms that estimate the false-positive rate."""
    result_cache_folder: str
    """Results are written here as they are produced; an interrupted run resumes from them."""
    trend_folder: str
    """Holds one small file per evaluated adapter, for the trend in the report."""
    seed: int = 42
    """Seed of all sampling: items and resamples."""

    @model_validator(mode="after")
    def _check_together(self) -> "BehavioralEvalParams":
        missing = {"base", "tuned"} - set(self.arms)
        if missing:
            raise ValueError(
                f"arms must include base and tuned, which the verdict compares; "
                f"{sorted(missing)} missing"
            )
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms contains duplicates: {list(self.arms)}")
        absent = {"cpu", "cuda"} - set(self.budgets)
        if absent:
            raise ValueError(f"budgets has no entry for {sorted(absent)}")
        return self

    def budget_for(self, device_type: str) -> DeviceBudget:
        """Return the budget of a device type, with item counts capped by ``max_items``."""
        budget = self.budgets["cuda" if device_type == "cuda" else "cpu"]
        if self.max_items is None:
            return budget
        item_counts = ("probes", "held_out_rows", "task_items", "general_items")
        return budget.model_copy(
            update={name: min(getattr(budget, name), self.max_items) for name in item_counts}
        )
