"""Stored answers, joined with their probes and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import PlannedProbe, ProbePlan
from the_block_llm.pipelines.behavioral_eval.probes.scores import AnswerScores, score_answer
from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe
from the_block_llm.retrieval.citations import Citation, KnownNames, citations


@dataclass(frozen=True)
class ScoredAnswer:
    """The answer of one arm to one probe, with its scores."""

    planned: PlannedProbe
    arm: str
    seed: int
    completion: str
    finish: str
    retrieved: tuple[str, ...]
    scores: AnswerScores
    citations: tuple[Citation, ...]


def score_answers(
    plan: ProbePlan, completions: Sequence[Mapping[str, Any]], known: KnownNames
) -> list[ScoredAnswer]:
    """Score every stored answer.

    Args:
        plan: The probes of the evaluation.
        completions: Rows of the schema ``COMPLETIONS``.
        known: Paths, commits and symbols of the repository, to check citations.

    Raises:
        StaleDataError: An answer belongs to no planned probe or to another version of its
            prompt, or a probe has no answer.
    """
    planned = {(p.suite, p.probe.id): p for p in plan.probes}
    answered = {(row["suite"], row["probe_id"]) for row in completions}
    outdated = {
        (row["suite"], row["probe_id"])
        for row in completions
        if (match := planned.get((row["suite"], row["probe_id"]))) is not None
        and match.probe.prompt.strip() not in row["prompt"]
    }
    mismatched = (answered ^ set(planned)) | outdated
    if mismatched:
        raise StaleDataError(
            "The stored answers do not match the planned questions "
            f"(first mismatch: {'/'.join(min(mismatched))}). "
            "Run `kedro run --pipeline=behavioral_eval` again; valid results are reused."
        )
    return [
        ScoredAnswer(
            planned=planned[row["suite"], row["probe_id"]],
            arm=row["arm"],
            seed=row["seed"],
            completion=row["completion"],
            finish=row["finish"],
            retrieved=tuple(row["retrieved"]),
            scores=score_answer(
                planned[row["suite"], row["probe_id"]].probe, row["completion"], row["finish"]
            ),
            citations=citations(
                row["completion"],
                _question_text(planned[row["suite"], row["probe_id"]].probe),
                known,
            ),
        )
        for row in completions
    ]


def _question_text(probe: Probe) -> str:
    return f"{probe.context}\n{probe.prompt}"


def scores_by_category(answers: Sequence[ScoredAnswer]) -> list[dict[str, Any]]:
    """Return the mean scores by category and arm, and of all categories as ``overall``."""
    table = []
    categories = ["overall", *dict.fromkeys(a.planned.probe.category for a in answers)]
    for category in categories:
        for arm in dict.fromkeys(a.arm for a in answers):
            group = [
                a
                for a in answers
                if a.arm == arm and category in ("overall", a.planned.probe.category)
            ]
            scores = [a.scores for a in group]
            cited = [citation for a in group for citation in a.citations]
            table.append(
                {
                    "category": category,
                    "arm": arm,
                    "n_answers": len(scores),
                    "concept_share": fmean(s.concept_share for s in scores),
                    "reasoning_depth": fmean(s.reasoning_depth for s in scores),
                    "mentions_interactions": fmean(s.mentions_interactions for s in scores),
                    "mentions_trade_offs": fmean(s.mentions_trade_offs for s in scores),
                    "false_claims": sum(len(s.false_claims) for s in scores),
                    "citations": len(cited),
                    "citations_that_exist": sum(citation.exists for citation in cited),
                    "with_warnings": fmean(bool(s.warnings) for s in scores),
                }
            )
    return table
