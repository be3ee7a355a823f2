"""The report as data: verdict, measures, every answer with its scores, and where from.

It is made from stored answers and stored scores only, so judging again costs no model time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.comparisons import (
    is_leaked,
    pair_arms,
    task_table,
)
from the_block_llm.pipelines.behavioral_eval.analysis.negative_controls import calibrate
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import (
    RULES,
    Judged,
    judge_measures,
    reach_verdict,
)
from the_block_llm.pipelines.behavioral_eval.params import ARMS, BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import (
    ScoredAnswer,
    by_category,
    score_answers,
)
from the_block_llm.pipelines.behavioral_eval.report.degeneration import coherence_report
from the_block_llm.retrieval.citations import KnownNames

REPORT_VERSION: Final = 1
# What the first user's plan asked of a tuned model, as shares of concepts named.
_CRITERIA: Final = {"overall": 0.5, "architecture": 0.6, "cross_module": 0.5}
# Each pair answers a question of its own; base against tuned is the verdict's.
_ALSO_COMPARED: Final = (
    ("base", "base_retrieval", "What retrieval alone adds"),
    ("base_retrieval", "tuned", "Tuning instead of retrieval"),
    ("base_retrieval", "tuned_retrieval", "Tuning on top of retrieval"),
)


def build_report(
    plan: ProbePlan,
    completions: Sequence[Mapping[str, Any]],
    item_scores: Sequence[Mapping[str, Any]],
    known: KnownNames,
    params: BehavioralEvalParams,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge stored answers and stored scores.

    Args:
        plan: The questions.
        completions: Rows of the schema ``COMPLETIONS``.
        item_scores: Rows of the schema ``ITEM_SCORES``.
        known: What citations are looked up in.
        params: Resamples, seed and settings.
        provenance: JSON values that say which model, adapter and data this is about.

    Returns:
        JSON values. ``verdict.outcome`` and ``verdict.sentence`` hold the answer, ``measures``
        the evidence, ``answers`` every answer, ``items`` every item (bits of ``weight`` bytes,
        or 1 for right and 0 for wrong).

    Raises:
        StaleDataError: Answers and questions do not belong together.
    """
    answers = score_answers(plan, completions, known)
    paired = pair_arms(answers, item_scores, "base", "tuned")
    judged = judge_measures([m.compared(params.resamples, params.seed) for m in paired])
    verdict = reach_verdict(judged)
    categories = by_category(answers)
    return {
        "report_version": REPORT_VERSION,
        "project": plan.project,
        "verdict": {**asdict(verdict), "rules": list(RULES)},
        "measures": [_measure_row(j, "base", "tuned") for j in judged],
        "tasks": task_table(item_scores),
        "also_compared": _also_compared(answers, item_scores, params),
        "left_out_as_seen_in_training": _leaked(item_scores),
        "calibration": calibrate(paired, params.calibration_shuffles, params.seed),
        "categories": categories,
        "criteria": _criteria(categories),
        "coherence": coherence_report(answers),
        "answers": _side_by_side(answers),
        "items": _items(item_scores),
        "questions": {
            "asked": len(plan.probes),
            "available": plan.n_available,
            "left_out": plan.left_out,
        },
        "settings": params.model_dump(mode="json"),
        "provenance": {**provenance, "suites": plan.suite_hashes},
    }


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few lines, for the end of a run."""
    verdict = report["verdict"]
    return [f"{verdict['outcome'].capitalize()}: {verdict['sentence']}", *verdict["reasons"]]


def _measure_row(judged: Judged, first: str, second: str) -> dict[str, Any]:
    row = asdict(judged.measure)
    difference = row.pop("difference")
    values = {first: difference.pop("first"), second: difference.pop("second")}
    return {
        **row,
        **values,
        **difference,
        "p_corrected": judged.p_corrected,
        "outcome": judged.outcome,
    }


def _also_compared(
    answers: Sequence[ScoredAnswer],
    item_scores: Sequence[Mapping[str, Any]],
    params: BehavioralEvalParams,
) -> list[dict[str, Any]]:
    arms = {answer.arm for answer in answers} | {row["arm"] for row in item_scores}
    further = sorted(arms - set(ARMS))
    compared = []
    for first, second, title in (
        *_ALSO_COMPARED,
        *((name, "tuned", f"This adapter instead of {name}") for name in further),
    ):
        if {first, second} <= arms:
            paired = pair_arms(answers, item_scores, first, second)
            judged = judge_measures([m.compared(params.resamples, params.seed) for m in paired])
            rows = [_measure_row(j, "first", "second") for j in judged]
            compared.append({"first": first, "second": second, "title": title, "measures": rows})
    return compared


def _leaked(item_scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sources of held-out text and of tasks that stand in the training documents as well."""
    return sorted({row["cluster"] for row in item_scores if is_leaked(row)})


def _items(item_scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every item measured by likelihood, with its value in each arm."""
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for row in item_scores:
        item = items.setdefault(
            (row["task"], row["item_id"]),
            {
                "task": row["task"],
                "item_id": row["item_id"],
                "cluster": row["cluster"],
                "weight": row["weight"],
                "left_out": is_leaked(row),
                "values": {},
            },
        )
        item["values"][row["arm"]] = row["value"]
    return list(items.values())


def _criteria(categories: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan's success criteria for the tuned arm, where the category was asked about."""
    shares = {row["category"]: row["concept_share"] for row in categories if row["arm"] == "tuned"}
    return [
        {
            "category": category,
            "needed": needed,
            "reached": shares[category],
            "met": shares[category] > needed,
        }
        for category, needed in _CRITERIA.items()
        if category in shares
    ]


def _side_by_side(answers: Sequence[ScoredAnswer]) -> list[dict[str, Any]]:
    """One entry a probe, holding the answers of all arms and seeds."""

    def probe_of(answer: ScoredAnswer) -> tuple[str, str]:
        return answer.planned.suite, answer.planned.probe.id

    order = {key: place for place, key in enumerate(dict.fromkeys(map(probe_of, answers)))}
    by_probe = sorted(answers, key=lambda answer: order[probe_of(answer)])
    return [_beside(list(group)) for _, group in groupby(by_probe, key=probe_of)]


def _beside(answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
    planned = answers[0].planned
    return {
        "suite": planned.suite,
        "probe_id": planned.probe.id,
        "category": planned.probe.category,
        "prompt": planned.probe.prompt,
        "context": planned.probe.context,
        "why": planned.probe.why,
        "concepts": [concept.concept for concept in planned.probe.concepts],
        "arms": [
            {
                "arm": answer.arm,
                "seed": answer.seed,
                "completion": answer.completion,
                "finish": answer.finish,
                "retrieved": list(answer.retrieved),
                "scores": asdict(answer.scores),
                "citations": [asdict(citation) for citation in answer.citations],
            }
            for answer in answers
        ],
    }
