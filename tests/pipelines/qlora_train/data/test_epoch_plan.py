import pytest

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.qlora_train.data.epoch_plan import plan_epochs


@pytest.mark.parametrize(
    ("tokens_per_epoch", "options", "epochs", "reason"),
    [
        (512_000, {}, 12, "max_epochs"),
        (10_000_000, {}, 6, "min_epochs"),
        (6_000_000, {}, 9, "target_tokens"),
        (100_000_000, {}, 6, "min_epochs"),
        (0, {}, 12, "no trained tokens"),
        (512_000, {"force_epochs": 2}, 2, "force_epochs"),
        (0, {"force_epochs": 3}, 3, "force_epochs"),
    ],
)
def test_epochs_follow_the_token_budget_within_bounds(
    tokens_per_epoch: int, options: dict[str, int], epochs: int, reason: str
) -> None:
    plan = plan_epochs(1000, tokens_per_epoch, 125, 50_000_000, 6, 12, **options)
    assert plan.epochs == epochs
    assert reason in plan.reason
    assert plan.steps == 125 * epochs


def test_max_steps_limits_steps_and_is_named_in_the_reason() -> None:
    plan = plan_epochs(1000, 512_000, 125, 50_000_000, 6, 12, max_steps=20)
    assert (plan.steps, plan.epochs) == (20, 12)
    assert "max_steps" in plan.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_tokens": float("nan")},
        {"trained_tokens_per_epoch": -1},
        {"min_epochs": 13},
        {"steps_per_epoch": -1},
    ],
)
def test_invalid_numbers_are_rejected(wrong: dict[str, float]) -> None:
    valid = {
        "rows": 10, "trained_tokens_per_epoch": 5000, "steps_per_epoch": 2,
        "target_tokens": 50_000, "min_epochs": 6, "max_epochs": 12,
    }  # fmt: skip
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        plan_epochs(**{**valid, **wrong})  # type: ignore[arg-type]
