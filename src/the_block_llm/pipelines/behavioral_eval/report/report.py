"""The report as JSON values: verdict, metrics, scored answers and provenance.

It is computed from stored answers and scores only, so it can be rebuilt without a model.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.negative_controls import run_negative_controls
from the_block_llm.pipelines.behavioral_eval.analysis.paired_metrics import (
    is_contaminated,
    pair_metrics,
    summarize_tasks,
)
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import (
    RULES,
    JudgedComparison,
    judge_comparisons,
    reach_verdict,
)
from the_block_llm.pipelines.behavioral_eval.params import ARMS, BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import (
    ScoredAnswer,
    score_answers,
    scores_by_category,
)
from the_block_llm.pipelines.behavioral_eval.report.degeneration import degeneration_report
from the_block_llm.retrieval.citations import KnownNames

REPORT_VERSION: Final = 1
# Success criteria of the project plan: required fraction of concepts named, by category.
_CRITERIA: Final = {"overall": 0.5, "architecture": 0.6, "cross_module": 0.5}
# Pairs of arms that are compared in addition to base and tuned.
_OTHER_PAIRS: Final = (
    ("base", "base_retrieval", "Retrieval without tuning"),
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
    """Build the report from stored answers and scores.

    Args:
        plan: The probes of the evaluation.
        completions: Rows of the schema ``COMPLETIONS``.
        item_scores: Rows of the schema ``ITEM_SCORES``.
        known: Paths, commits and symbols of the repository, to check citations.
        params: Resamples, seed and the settings to report.
        provenance: JSON values that identify model, adapter and data.

    Returns:
        JSON values. ``verdict`` has the outcome and a sentence, ``measures`` the evidence,
        ``answers`` every answer, and ``items`` the values of every item: bits for ``weight``
        bytes, or 1 for correct and 0 for wrong.

    Raises:
        StaleDataError: The answers do not match the planned probes.
    """
    answers = score_answers(plan, completions, known)
    metrics = pair_metrics(answers, item_scores, "base", "tuned")
    judged = judge_comparisons([m.compare(params.resamples, params.seed) for m in metrics])
    verdict = reach_verdict(judged)
    categories = scores_by_category(answers)
    return {
        "report_version": REPORT_VERSION,
        "project": plan.project,
        "verdict": {**asdict(verdict), "rules": list(RULES)},
        "measures": [_comparison_row(j, "base", "tuned") for j in judged],
        "tasks": summarize_tasks(item_scores),
        "also_compared": _other_comparisons(answers, item_scores, params),
        "left_out_as_seen_in_training": _contaminated_sources(item_scores),
        "calibration": run_negative_controls(metrics, params.calibration_shuffles, params.seed),
        "categories": categories,
        "criteria": _criteria(categories),
        "coherence": degeneration_report(answers),
        "answers": _answers_by_probe(answers),
        "items": _item_values(item_scores),
        "questions": {
            "asked": len(plan.probes),
            "available": plan.n_available,
            "left_out": plan.left_out,
        },
        # The report is given to others: without paths of this machine.
        "settings": params.model_dump(mode="json", exclude={"result_cache_folder", "trend_folder"}),
        "provenance": {**provenance, "suites": plan.suite_hashes},
    }


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the verdict and its reasons, for the summary at the end of a run."""
    verdict = report["verdict"]
    return [f"{verdict['outcome'].capitalize()}: {verdict['sentence']}", *verdict["reasons"]]


def _comparison_row(judged: JudgedComparison, first: str, second: str) -> dict[str, Any]:
    row = asdict(judged.comparison)
    difference = row.pop("difference")
    values = {first: difference.pop("first"), second: difference.pop("second")}
    return {
        **row,
        **values,
        **difference,
        "p_corrected": judged.p_corrected,
        "outcome": judged.outcome,
    }


def _other_comparisons(
    answers: Sequence[ScoredAnswer],
    item_scores: Sequence[Mapping[str, Any]],
    params: BehavioralEvalParams,
) -> list[dict[str, Any]]:
    arms = {answer.arm for answer in answers} | {row["arm"] for row in item_scores}
    further_models = sorted(arms - set(ARMS))
    comparisons = []
    for first, second, title in (
        *_OTHER_PAIRS,
        *((name, "tuned", f"This adapter instead of {name}") for name in further_models),
    ):
        if {first, second} <= arms:
            metrics = pair_metrics(answers, item_scores, first, second)
            judged = judge_comparisons([m.compare(params.resamples, params.seed) for m in metrics])
            rows = [_comparison_row(j, "first", "second") for j in judged]
            comparisons.append({"first": first, "second": second, "title": title, "measures": rows})
    return comparisons


def _contaminated_sources(item_scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sources of items that also occur in the training documents."""
    return sorted({row["cluster"] for row in item_scores if is_contaminated(row)})


def _item_values(item_scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every item scored by likelihood, with its value in each arm."""
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for row in item_scores:
        item = items.setdefault(
            (row["task"], row["item_id"]),
            {
                "task": row["task"],
                "item_id": row["item_id"],
                "cluster": row["cluster"],
                "weight": row["weight"],
                "left_out": is_contaminated(row),
                "values": {},
            },
        )
        item["values"][row["arm"]] = row["value"]
    return list(items.values())


def _criteria(categories: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the success criteria for the tuned arm, for the categories that were asked about."""
    shares = {row["category"]: row["concept_share"] for row in categories if row["arm"] == "tuned"}
    return [
        {
            "category": category,
            "needed": required,
            "reached": shares[category],
            "met": shares[category] > required,
        }
        for category, required in _CRITERIA.items()
        if category in shares
    ]


def _answers_by_probe(answers: Sequence[ScoredAnswer]) -> list[dict[str, Any]]:
    """Return one entry per probe, with the answers of all arms and seeds."""
    by_probe: dict[tuple[str, str], list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        by_probe[answer.planned.suite, answer.planned.probe.id].append(answer)
    return [_probe_entry(group) for group in by_probe.values()]


def _probe_entry(answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
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
