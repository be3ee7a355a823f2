from contextlib import suppress

import pytest
from tests.builders.damage import damaged, without_one_key

from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan, read_probe_plan

PLAN = ProbePlan(
    project="chain", role="advisor", suite_hashes={"own": "1"}, probes=(), n_available=3,
    left_out={},
)  # fmt: skip


def test_a_stored_plan_is_read() -> None:
    assert read_probe_plan(PLAN.model_dump(mode="json")) == PLAN


def test_a_plan_of_another_version_is_an_error_with_a_remedy() -> None:
    stored = PLAN.model_dump(mode="json")
    for _, stale in without_one_key(stored):
        with pytest.raises(StaleDataError, match="The dataset probe_plan .*behavioral_eval"):
            read_probe_plan(stale)
    for stale in damaged(stored):
        with suppress(StaleDataError):
            read_probe_plan(stale)
