"""Pairs the scores of two arms by item, for each metric of the report."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import (
    PairedItem,
    mcnemar,
    paired_bootstrap,
)
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import Comparison, MetricRole
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import HUMAN_WRITTEN_KINDS
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import (
    CONTAMINATED_MIN_OVERLAP,
    NEW_TEXT_MAX_OVERLAP,
)
from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import ScoredAnswer
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import GENERAL_TEXT, HELD_OUT
from the_block_llm.pipelines.behavioral_eval.tasks import general_ability
from the_block_llm.pipelines.behavioral_eval.tasks.registry import TASKS

ScoreRows = Sequence[Mapping[str, Any]]
"""Rows of the schema ``ITEM_SCORES``."""

_BITS_PER_BYTE: Final = "bits per byte"
_CORRECT: Final = "right answers"
_KIND_TITLES: Final = {
    "commit": "Later commits",
    "file": "Later lines of files",
    "chat": "Questions about later changes",
}


@dataclass(frozen=True)
class PairedMetric:
    """The values of one metric in two arms, paired by item."""

    name: str
    title: str
    unit: str
    weight: MetricRole
    items: tuple[PairedItem, ...]

    def compare(self, resamples: int, seed: int) -> Comparison:
        """Compare the arms; see :func:`~.statistics.paired_bootstrap`."""
        return Comparison(
            name=self.name,
            title=self.title,
            unit=self.unit,
            higher_is_better=self.unit != _BITS_PER_BYTE,
            weight=self.weight,
            difference=paired_bootstrap(self.items, resamples, seed),
        )


def pair_metrics(
    answers: Sequence[ScoredAnswer], item_scores: ScoreRows, first: str, second: str
) -> list[PairedMetric]:
    """Pair the items that were measured in both arms, without contaminated ones.

    Args:
        answers: Scored answers of all arms.
        item_scores: Rows of the schema ``ITEM_SCORES``.
        first: The reference arm.
        second: The arm compared with it.

    Returns:
        Metrics that have items, the primary one first.
    """
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    by_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in item_scores:
        if is_contaminated(row):
            continue
        by_task[row["task"]].append(row)
        if row["task"] == HELD_OUT:
            by_kind[json.loads(row["detail"])["kind"]].append(row)
    human_written = [row for kind in HUMAN_WRITTEN_KINDS for row in by_kind[kind]]
    metric_rows: list[tuple[str, str, str, MetricRole, ScoreRows]] = [
        (HELD_OUT, "Held-out text", _BITS_PER_BYTE, "primary", human_written),
        *(
            (f"{HELD_OUT}_{kind}", title, _BITS_PER_BYTE, "part", by_kind[kind])
            for kind, title in _KIND_TITLES.items()
        ),
        # Later text repeats some earlier lines; this metric shows the gain without them.
        (
            f"{HELD_OUT}_new",
            "Held-out text of new lines only",
            _BITS_PER_BYTE,
            "part",
            [row for row in human_written if _train_overlap(row) < NEW_TEXT_MAX_OVERLAP],
        ),
        *((t.name, t.title, _CORRECT, "knowledge", by_task[t.name]) for t in TASKS),
        (GENERAL_TEXT, "General text", _BITS_PER_BYTE, "ability", by_task[GENERAL_TEXT]),
        (
            general_ability.TASK,
            "General questions",
            _CORRECT,
            "ability",
            by_task[general_ability.TASK],
        ),
    ]
    comparisons = [
        PairedMetric(name, title, unit, weight, _pair_rows(rows, first, second))
        for name, title, unit, weight, rows in metric_rows
    ]
    concepts = _pair_concept_scores(answers, first, second)
    comparisons.append(
        PairedMetric(
            "concepts", "Concepts named in answers", "of those asked for", "knowledge", concepts
        )
    )
    return [comparison for comparison in comparisons if comparison.items]


def is_contaminated(row: Mapping[str, Any]) -> bool:
    """Return True if the text of an item occurs in training; such items are excluded."""
    return _train_overlap(row) >= CONTAMINATED_MIN_OVERLAP


def _train_overlap(row: Mapping[str, Any]) -> float:
    overlap: float = json.loads(row["detail"]).get("familiar", 0.0)
    return overlap


def _pair_rows(rows: ScoreRows, first: str, second: str) -> tuple[PairedItem, ...]:
    by_item: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_item[row["item_id"]][row["arm"]] = row
    return tuple(
        PairedItem(
            cluster=arms[first]["cluster"],
            weight=arms[first]["weight"],
            first=arms[first]["value"],
            second=arms[second]["value"],
        )
        for _, arms in sorted(by_item.items())
        if first in arms and second in arms
    )


def _pair_concept_scores(
    answers: Sequence[ScoredAnswer], first: str, second: str
) -> tuple[PairedItem, ...]:
    """Pair the concept shares of each probe and seed; a probe is one cluster."""
    shares = {
        (a.planned.suite, a.planned.probe.id, a.seed, a.arm): a.scores.concept_share
        for a in answers
    }
    return tuple(
        PairedItem(
            cluster=f"{suite}/{probe_id}",
            weight=1.0,
            first=share,
            second=shares[suite, probe_id, seed, second],
        )
        for (suite, probe_id, seed, arm), share in shares.items()
        if arm == first and (suite, probe_id, seed, second) in shares
    )


def summarize_tasks(item_scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the accuracy of each arm and each heuristic baseline, by task.

    Returns:
        One row per task: ``task``, ``title``, ``n_items``, ``guessing``, ``right`` by arm,
        ``tricks`` (the heuristic baselines) by name, the number of items that only base or
        only tuned got right, and the p-value of McNemar's test.
    """
    titles = {task.name: task.title for task in TASKS}
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in item_scores:
        if row["task"] in titles and not is_contaminated(row):
            by_task[row["task"]].append(row)
    return [_task_row(name, titles[name], by_task[name]) for name in titles if by_task[name]]


def _task_row(name: str, title: str, rows: ScoreRows) -> dict[str, Any]:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    correct: dict[str, dict[str, bool]] = {
        arm: {row["item_id"]: row["value"] == 1 for row in rows if row["arm"] == arm}
        for arm in arms
    }
    details = [json.loads(row["detail"]) for row in rows if row["arm"] == arms[0]]
    baselines = dict.fromkeys((name for detail in details for name in detail["tricks"]), 0.0)
    for detail in details:
        for baseline, accuracy in detail["tricks"].items():
            baselines[baseline] += accuracy / len(details)
    base, tuned = correct.get("base", {}), correct.get("tuned", {})
    only_base = sum(base[item] and not tuned.get(item, False) for item in base)
    only_tuned = sum(tuned[item] and not base.get(item, False) for item in tuned)
    return {
        "task": name,
        "title": title,
        "n_items": len(details),
        "guessing": sum(1 / len(detail["choices"]) for detail in details) / len(details),
        "right": {arm: sum(items.values()) / len(items) for arm, items in correct.items()},
        "tricks": baselines,
        "only_base": only_base,
        "only_tuned": only_tuned,
        "mcnemar_p": mcnemar(only_base, only_tuned),
    }
