"""The probes of an evaluation, selected before any model is loaded.

The plan is stored, so that stored answers can be scored again against the same questions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from the_block_llm.errors import SuiteError, stored_data
from the_block_llm.pipelines.behavioral_eval.probes.placeholders import (
    fill_placeholders,
    select_probes,
)
from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe, Suite


class PlannedProbe(BaseModel, frozen=True, extra="forbid"):
    """A selected probe with its placeholders filled."""

    suite: str
    probe: Probe


class ProbePlan(BaseModel, frozen=True, extra="forbid"):
    """All probes of one evaluation."""

    project: str
    role: Literal["advisor", "completion"]
    suite_hashes: dict[str, str]
    probes: tuple[PlannedProbe, ...]
    n_available: int
    """Number of probes before the budget was applied."""
    left_out: dict[str, str]
    """Reason by ``suite/probe`` or suite, for those that do not apply."""


def read_probe_plan(stored: Mapping[str, Any]) -> ProbePlan:
    """Read the stored plan.

    Raises:
        StaleDataError: Another version of the project wrote it.
    """
    remedy = "Run `kedro run --pipeline=behavioral_eval` again."
    with stored_data("The dataset probe_plan", remedy):
        return ProbePlan.model_validate(stored)


def plan_probes(
    suites: Sequence[Suite],
    role: Literal["advisor", "completion"],
    values: Mapping[str, str],
    n_probes: int,
) -> ProbePlan:
    """Select the probes for a model of ``role`` and fill their placeholders.

    Args:
        suites: Suites to select from.
        role: Suites for the other role are left out.
        values: Values by placeholder name.
        n_probes: Maximum number of probes.

    Raises:
        SuiteError: No suite has a probe for this role and repository.
    """
    left_out: dict[str, str] = {}
    filled_suites: list[Suite] = []
    for suite in suites:
        if suite.role != role:
            left_out[suite.name] = f"for models of the role {suite.role}"
            continue
        filled, reasons = fill_placeholders(suite, values)
        left_out |= {f"{suite.name}/{id_}": reason for id_, reason in reasons.items()}
        if filled is not None:
            filled_suites.append(filled)
    if not filled_suites:
        raise SuiteError(
            f"None of the suites {[suite.name for suite in suites]} has a probe for models of the "
            f"role {role}. Add a suite for this role to behavioral_eval.suites."
        )
    selected = select_probes(filled_suites, n_probes)
    return ProbePlan(
        project=values["project"],
        role=role,
        suite_hashes={suite.name: suite.text_hash for suite in suites},
        probes=tuple(PlannedProbe(suite=name, probe=probe) for name, probe in selected),
        n_available=sum(len(suite.probes) for suite in filled_suites),
        left_out=left_out,
    )
