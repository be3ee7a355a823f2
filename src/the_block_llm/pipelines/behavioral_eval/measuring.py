"""What is measured by likelihood: held-out text, tasks, and general ability.

Everything is measured in every arm it is meant for, and kept in the journal as it comes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from the_block_llm.models.likelihood import continuation_nats
from the_block_llm.pipelines.behavioral_eval.held_out import (
    PieceCost,
    Source,
    batches_of_rows,
    measure_rows,
    without_tokens,
)
from the_block_llm.pipelines.behavioral_eval.journal import Journal, result_key
from the_block_llm.pipelines.behavioral_eval.params import Arm, Budget
from the_block_llm.pipelines.behavioral_eval.subject import Subject, retrieves
from the_block_llm.pipelines.behavioral_eval.task_scores import choice_nats, choice_score
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.progress import progress_bar
from the_block_llm.retrieval.passages import PassageIndex

HELD_OUT: Final = "held_out"
GENERAL_TEXT: Final = "general_text"
_PLAIN_ARMS: Final[tuple[Arm, ...]] = ("base", "tuned")


def measure_held_out(
    subject: Subject,
    rows: Sequence[tuple[int, dict[str, Any]]],
    sources: Mapping[str, Source],
    journal_folder: Path,
) -> list[dict[str, Any]]:
    """Measure held-out rows in the arms ``base`` and ``tuned``.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    n_tokens = len(_PLAIN_ARMS) * sum(len(row["input_ids"]) for _, row in rows)
    with progress_bar("Measuring held-out text", n_tokens) as bar:
        for arm in _PLAIN_ARMS:
            weights = subject.weights_of(arm)
            read = rows
            if arm == "base" and subject.added_ids:
                read = [(number, without_tokens(row, subject.added_ids)) for number, row in rows]
            with Journal(journal_folder, weights) as journal, subject.as_arm(arm) as model:
                keys = {number: _row_key(number, row) for number, row in read}
                missing = [(n, row) for n, row in read if keys[n] not in journal]
                bar.advance(n_tokens / 2 - sum(len(row["input_ids"]) for _, row in missing))
                for batch in batches_of_rows(missing):
                    found: dict[int, list[PieceCost]] = {number: [] for number, _ in batch}
                    for piece in measure_rows(model, subject.tokenizer_of(arm), batch):
                        found[piece.row].append(piece)
                    for number, pieces in found.items():
                        journal.put(keys[number], [asdict(piece) for piece in pieces])
                    bar.advance(sum(len(row["input_ids"]) for _, row in batch))
                scores += [
                    _held_out_score(arm, weights, piece, sources)
                    for number, _ in rows
                    for piece in journal[keys[number]]
                ]
    return scores


def measure_tasks(
    subject: Subject,
    items: Sequence[ChoiceItem],
    arms: Sequence[Arm],
    budget: Budget,
    index: PassageIndex,
    journal_folder: Path,
) -> list[dict[str, Any]]:
    """Let the arms choose; those with retrieval only where the budget says so.

    Returns:
        Rows of the schema ``ITEM_SCORES``: 1 for right, 0 for wrong.
    """
    asked = [arm for arm in arms if budget.tasks_with_retrieval or not retrieves(arm)]
    scores: list[dict[str, Any]] = []
    with progress_bar("Putting the tasks", len(asked) * len(items)) as bar:
        for arm in asked:
            weights = subject.weights_of(arm)
            with Journal(journal_folder, weights) as journal, subject.as_arm(arm) as model:
                for item in items:
                    passages = index.find(item.prefix, budget.passages) if retrieves(arm) else []
                    prefix = "\n\n".join([*(p.text.strip() for p in passages), item.prefix])
                    key = result_key("choice", prefix, item.choices)
                    if key not in journal:
                        journal.put(key, choice_nats(model, subject.tokenizer, prefix, item))
                    score = choice_score(item, journal[key])
                    scores.append(
                        {
                            "key": result_key(weights, key),
                            "task": item.task,
                            "item_id": item.item_id,
                            "cluster": item.cluster,
                            "arm": arm,
                            "value": float(score.is_right),
                            "weight": 1.0,
                            "detail": score.detail(item),
                        }
                    )
                    bar.advance()
    return scores


def measure_general_text(
    subject: Subject, texts: Sequence[str], journal_folder: Path
) -> list[dict[str, Any]]:
    """Measure texts that have nothing to do with the repository, in ``base`` and ``tuned``.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    with progress_bar("Measuring general ability", len(_PLAIN_ARMS) * len(texts)) as bar:
        for arm in _PLAIN_ARMS:
            weights = subject.weights_of(arm)
            with Journal(journal_folder, weights) as journal, subject.as_arm(arm) as model:
                for number, text in enumerate(texts):
                    key = result_key("text", text)
                    # The first words are read only, so that there is something to go on.
                    head, _, rest = text.partition(" ")
                    if key not in journal:
                        prefix = subject.tokenizer(head)["input_ids"]
                        ids = subject.tokenizer(f" {rest}", add_special_tokens=False)["input_ids"]
                        journal.put(key, continuation_nats(model, prefix, [ids])[0])
                    scores.append(
                        {
                            "key": result_key(weights, key),
                            "task": GENERAL_TEXT,
                            "item_id": f"{GENERAL_TEXT}/{number}",
                            "cluster": f"{GENERAL_TEXT}/{number}",
                            "arm": arm,
                            "value": journal[key] / math.log(2),
                            "weight": float(len(f" {rest}".encode())),
                            "detail": json.dumps({"text": text}),
                        }
                    )
                    bar.advance()
    return scores


def _row_key(number: int, row: Mapping[str, Any]) -> str:
    """Pieces carry the row's number and documents, so these decide the result too."""
    return result_key(
        HELD_OUT,
        number,
        row["input_ids"],
        [bool(target) for target in row["labels_mask"]],
        row["segment_lengths"],
        row["document_ids"],
    )


def _held_out_score(
    arm: Arm, weights: str, piece: Mapping[str, Any], sources: Mapping[str, Source]
) -> dict[str, Any]:
    source = sources[piece["document_id"]]
    return {
        "key": result_key(weights, HELD_OUT, piece),
        "task": HELD_OUT,
        "item_id": piece["item_id"],
        "cluster": source.source,
        "arm": arm,
        "value": piece["bits"],
        "weight": float(piece["n_bytes"]),
        "detail": json.dumps({"kind": source.kind, "familiar": source.familiar}),
    }
