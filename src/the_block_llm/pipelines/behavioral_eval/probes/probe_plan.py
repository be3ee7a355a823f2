"""What an evaluation is going to ask, fixed before any model is loaded.

It is stored, so answers can be scored again later against the very questions they answer.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel

from the_block_llm.errors import SuiteError
from the_block_llm.pipelines.behavioral_eval.probes.placeholders import choose_probes, fill_suite
from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe, Suite


class PlannedProbe(BaseModel, frozen=True, extra="forbid"):
    """A question that will be asked, its placeholders filled."""

    suite: str
    probe: Probe


class ProbePlan(BaseModel, frozen=True, extra="forbid"):
    """All questions of one evaluation."""

    project: str
    role: Literal["advisor", "completion"]
    suite_hashes: dict[str, str]
    probes: tuple[PlannedProbe, ...]
    n_available: int
    """Questions that could have been asked; the budget may allow fewer."""
    left_out: dict[str, str]
    """By ``suite/probe``, or suite, why it is not asked."""


def plan_probes(
    suites: Sequence[Suite],
    role: Literal["advisor", "completion"],
    facts: Mapping[str, str],
    n_probes: int,
) -> ProbePlan:
    """Choose the questions for a model of ``role``, and fill in the repository's facts.

    Raises:
        SuiteError: No suite has a question for this role and repository.
    """
    left_out: dict[str, str] = {}
    filled_suites: list[Suite] = []
    for suite in suites:
        if suite.role != role:
            left_out[suite.name] = f"for models of the role {suite.role}"
            continue
        filled, reasons = fill_suite(suite, facts)
        left_out |= {f"{suite.name}/{id_}": reason for id_, reason in reasons.items()}
        if filled is not None:
            filled_suites.append(filled)
    if not filled_suites:
        raise SuiteError(
            f"None of the suites {[suite.name for suite in suites]} has a question for a model "
            f"of the role {role}. Add one to behavioral_eval.suites."
        )
    chosen = choose_probes(filled_suites, n_probes)
    return ProbePlan(
        project=facts["project"],
        role=role,
        suite_hashes={suite.name: suite.text_hash for suite in suites},
        probes=tuple(PlannedProbe(suite=name, probe=probe) for name, probe in chosen),
        n_available=sum(len(suite.probes) for suite in filled_suites),
        left_out=left_out,
    )
