"""Which pairs of scores are compared, and as what."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.answers import ScoredAnswer
from the_block_llm.pipelines.behavioral_eval.statistics import PairedItem, compare
from the_block_llm.pipelines.behavioral_eval.verdict import Measure

_KIND_TITLES: Final = {
    "commit": "Later commits",
    "file": "Files changed later",
    "chat": "Questions about later changes",
}


def collect_measures(
    answers: Sequence[ScoredAnswer],
    item_scores: Iterable[Mapping[str, Any]],
    resamples: int,
    seed: int,
) -> list[Measure]:
    """Pair base with tuned, item by item, and compare.

    Args:
        answers: Scored answers of all arms.
        item_scores: Rows of the schema ``ITEM_SCORES``.
        resamples: Of the bootstrap and of the sign-flip test.
        seed: Of the resamples.

    Returns:
        The primary measure first.
    """
    held_out: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in item_scores:
        if row["task"] == "held_out":
            held_out["all"].append(row)
            held_out[json.loads(row["detail"])["kind"]].append(row)
    measures = [
        Measure(
            name="held_out",
            title="Held-out text",
            unit="bits per byte",
            higher_is_better=False,
            weight="primary",
            difference=compare(paired(held_out.pop("all")), resamples, seed),
        )
    ]
    measures += [
        Measure(
            name=f"held_out_{kind}",
            title=_KIND_TITLES.get(kind, kind),
            unit="bits per byte",
            higher_is_better=False,
            weight="part",
            difference=compare(paired(rows), resamples, seed),
        )
        for kind, rows in sorted(held_out.items())
    ]
    if len(held_out) == 1:
        # The only part is the whole again.
        measures = measures[:1]
    measures.append(
        Measure(
            name="concepts",
            title="Concepts named in answers",
            unit="of those asked for",
            higher_is_better=True,
            weight="knowledge",
            difference=compare(_concept_pairs(answers), resamples, seed),
        )
    )
    return measures


def paired(
    rows: Iterable[Mapping[str, Any]], first: str = "base", second: str = "tuned"
) -> list[PairedItem]:
    """Pair the arms ``first`` and ``second`` of ``ITEM_SCORES`` rows by item."""
    values: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        values[row["item_id"]][row["arm"]] = row
    return [
        PairedItem(
            cluster=arms[first]["cluster"],
            weight=arms[first]["weight"],
            first=arms[first]["value"],
            second=arms[second]["value"],
        )
        for _, arms in sorted(values.items())
        if first in arms and second in arms
    ]


def _concept_pairs(
    answers: Sequence[ScoredAnswer], first: str = "base", second: str = "tuned"
) -> list[PairedItem]:
    """One item a probe and seed, the seeds of a probe in one cluster."""
    shares = {
        (a.planned.suite, a.planned.probe.id, a.seed, a.arm): a.scores.concept_share
        for a in answers
    }
    return [
        PairedItem(
            cluster=f"{suite}/{probe_id}",
            weight=1.0,
            first=shares[suite, probe_id, seed, first],
            second=shares[suite, probe_id, seed, second],
        )
        for suite, probe_id, seed, arm in shares
        if arm == first
    ]
