"""Which pairs of scores are compared, and as what."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import PairedItem, compare, mcnemar
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import Measure, Weight
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import WRITTEN_BY_PEOPLE
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import NEW_SHARE, SEEN_SHARE
from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import ScoredAnswer
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import GENERAL_TEXT, HELD_OUT
from the_block_llm.pipelines.behavioral_eval.tasks import general_ability
from the_block_llm.pipelines.behavioral_eval.tasks.registry import TASKS

Rows = Sequence[Mapping[str, Any]]

_BITS: Final = "bits per byte"
_RIGHT: Final = "right answers"
_KIND_TITLES: Final = {
    "commit": "Later commits",
    "file": "Later lines of files",
    "chat": "Questions about later changes",
}


@dataclass(frozen=True)
class PairedMeasure:
    """One thing measured in two arms, item by item, not compared yet."""

    name: str
    title: str
    unit: str
    weight: Weight
    items: tuple[PairedItem, ...]

    def compared(self, resamples: int, seed: int) -> Measure:
        """Compare the arms; the same seed gives the same figures."""
        return Measure(
            name=self.name,
            title=self.title,
            unit=self.unit,
            higher_is_better=self.unit != _BITS,
            weight=self.weight,
            difference=compare(self.items, resamples, seed),
        )


def pair_arms(
    answers: Sequence[ScoredAnswer], item_scores: Rows, first: str, second: str
) -> list[PairedMeasure]:
    """Pair everything that was measured in both arms.

    Args:
        answers: Scored answers of all arms.
        item_scores: Rows of the schema ``ITEM_SCORES``.
        first: The arm to compare with.
        second: The arm that may be better.

    Returns:
        Measures that have items; the primary one first, where it is among them.
    """
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    by_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in item_scores:
        if is_leaked(row):
            continue
        by_task[row["task"]].append(row)
        if row["task"] == HELD_OUT:
            by_kind[json.loads(row["detail"])["kind"]].append(row)
    written = [row for kind in WRITTEN_BY_PEOPLE for row in by_kind[kind]]
    listed: list[tuple[str, str, str, Weight, Rows]] = [
        (HELD_OUT, "Held-out text", _BITS, "primary", written),
        *(
            (f"{HELD_OUT}_{kind}", title, _BITS, "part", by_kind[kind])
            for kind, title in _KIND_TITLES.items()
        ),
        # Later text repeats some lines of what was there; this shows the gain without them.
        (
            f"{HELD_OUT}_new",
            "Held-out text with new lines alone",
            _BITS,
            "part",
            [row for row in written if _familiar(row) < NEW_SHARE],
        ),
        *((t.name, t.title, _RIGHT, "knowledge", by_task[t.name]) for t in TASKS),
        (GENERAL_TEXT, "General text", _BITS, "ability", by_task[GENERAL_TEXT]),
        (
            general_ability.TASK,
            "General questions",
            _RIGHT,
            "ability",
            by_task[general_ability.TASK],
        ),
    ]
    measures = [
        PairedMeasure(name, title, unit, weight, _pair_rows(rows, first, second))
        for name, title, unit, weight, rows in listed
    ]
    concepts = _pair_concepts(answers, first, second)
    measures.append(
        PairedMeasure(
            "concepts", "Concepts named in answers", "of those asked for", "knowledge", concepts
        )
    )
    return [measure for measure in measures if measure.items]


def is_leaked(row: Mapping[str, Any]) -> bool:
    """True for what training has seen; it takes no part in any comparison."""
    return _familiar(row) >= SEEN_SHARE


def _familiar(row: Mapping[str, Any]) -> float:
    share: float = json.loads(row["detail"]).get("familiar", 0.0)
    return share


def _pair_rows(rows: Rows, first: str, second: str) -> tuple[PairedItem, ...]:
    values: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        values[row["item_id"]][row["arm"]] = row
    return tuple(
        PairedItem(
            cluster=arms[first]["cluster"],
            weight=arms[first]["weight"],
            first=arms[first]["value"],
            second=arms[second]["value"],
        )
        for _, arms in sorted(values.items())
        if first in arms and second in arms
    )


def _pair_concepts(
    answers: Sequence[ScoredAnswer], first: str, second: str
) -> tuple[PairedItem, ...]:
    """One item a probe and seed, the seeds of a probe in one cluster."""
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


def task_table(item_scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each arm and each cheap trick got right, by task.

    Returns:
        One row a task: ``task``, ``title``, ``n_items``, ``guessing``, ``right`` by arm,
        ``tricks`` by name, and how many items only base or only tuned got right.
    """
    titles = {task.name: task.title for task in TASKS}
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in item_scores:
        if row["task"] in titles and not is_leaked(row):
            by_task[row["task"]].append(row)
    return [_task_row(name, titles[name], by_task[name]) for name in titles if by_task[name]]


def _task_row(name: str, title: str, rows: Rows) -> dict[str, Any]:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    right: dict[str, dict[str, bool]] = {
        arm: {row["item_id"]: row["value"] == 1 for row in rows if row["arm"] == arm}
        for arm in arms
    }
    details = [json.loads(row["detail"]) for row in rows if row["arm"] == arms[0]]
    tricks = dict.fromkeys((trick for detail in details for trick in detail["tricks"]), 0.0)
    for detail in details:
        for trick, chance in detail["tricks"].items():
            tricks[trick] += chance / len(details)
    base, tuned = right.get("base", {}), right.get("tuned", {})
    only_base = sum(base[item] and not tuned.get(item, False) for item in base)
    only_tuned = sum(tuned[item] and not base.get(item, False) for item in tuned)
    return {
        "task": name,
        "title": title,
        "n_items": len(details),
        "guessing": sum(1 / len(detail["choices"]) for detail in details) / len(details),
        "right": {arm: sum(items.values()) / len(items) for arm, items in right.items()},
        "tricks": tricks,
        "only_base": only_base,
        "only_tuned": only_tuned,
        "mcnemar_p": mcnemar(only_base, only_tuned),
    }
