"""What is measured by likelihood: held-out text, tasks, and general ability.

Everything is measured in every arm it is meant for, and kept in the journal as it comes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from the_block_llm.models.inference.likelihood import (
    PrefixedContinuations,
    max_batch_tokens,
    score_continuations,
)
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import (
    PieceCost,
    Source,
    batches_of_rows,
    measure_rows,
    without_tokens,
)
from the_block_llm.pipelines.behavioral_eval.params import Arm, Budget
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import Subject, retrieves
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import Journal, result_key
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.choice_scoring import choice_score, continued
from the_block_llm.progress import ProgressBar, progress_bar
from the_block_llm.retrieval.passages import PassageIndex

HELD_OUT: Final = "held_out"
GENERAL_TEXT: Final = "general_text"


def measure_held_out(
    subject: Subject,
    rows: Sequence[tuple[int, dict[str, Any]]],
    sources: Mapping[str, Source],
    arms: Sequence[Arm],
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Measure held-out rows in ``arms``; retrieval plays no part in it.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    n_tokens = len(arms) * sum(len(row["input_ids"]) for _, row in rows)
    with progress_bar("Measuring held-out text", n_tokens) as bar:
        for arm in arms:
            weights = subject.weights_of(arm)
            read = rows
            if unread := subject.unread_by(arm):
                read = [(number, without_tokens(row, unread)) for number, row in rows]
            with Journal(result_cache_folder, weights) as journal, subject.as_arm(arm) as model:
                keys = {number: _row_key(number, row) for number, row in read}
                missing = [(n, row) for n, row in read if keys[n] not in journal]
                bar.advance(n_tokens / len(arms) - sum(len(row["input_ids"]) for _, row in missing))
                for batch in batches_of_rows(missing, max_batch_tokens(model)):
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
    result_cache_folder: Path,
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
            prefixes = [_prefix(item, index, budget, arm) for item in items]
            keys = [
                result_key("choice", prefix, item.choices)
                for prefix, item in zip(prefixes, items, strict=True)
            ]
            with Journal(result_cache_folder, weights) as journal:
                texts = {
                    key: continued(subject.tokenizer, prefix, item)
                    for key, prefix, item in zip(keys, prefixes, items, strict=True)
                    if key not in journal
                }
                bar.advance(len(items) - len(texts))
                _measure_missing(subject, arm, texts, budget, journal, bar)
                scores += [
                    _choice_row(arm, weights, key, item, journal[key])
                    for key, item in zip(keys, items, strict=True)
                ]
    return scores


def measure_general_text(
    subject: Subject,
    texts: Sequence[str],
    arms: Sequence[Arm],
    budget: Budget,
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Measure texts that have nothing to do with the repository.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    keys = {text: result_key("text", text) for text in texts}
    with progress_bar("Measuring general ability", len(arms) * len(texts)) as bar:
        for arm in arms:
            weights = subject.weights_of(arm)
            with Journal(result_cache_folder, weights) as journal:
                missing = {
                    key: _after_first_word(subject.tokenizer, text)
                    for text, key in keys.items()
                    if key not in journal
                }
                bar.advance(len(texts) - len(missing))
                _measure_missing(subject, arm, missing, budget, journal, bar)
                scores += [
                    {
                        "key": result_key(weights, key),
                        "task": GENERAL_TEXT,
                        "item_id": f"{GENERAL_TEXT}/{number}",
                        "cluster": f"{GENERAL_TEXT}/{number}",
                        "arm": arm,
                        "value": journal[key][0] / math.log(2),
                        "weight": float(len(_rest(text).encode())),
                        "detail": json.dumps({"text": text}),
                    }
                    for number, (text, key) in enumerate(keys.items())
                ]
    return scores


def _measure_missing(
    subject: Subject,
    arm: Arm,
    texts: Mapping[str, PrefixedContinuations],
    budget: Budget,
    journal: Journal,
    bar: ProgressBar,
) -> None:
    """Measure ``texts``, by the key that each result is kept under."""
    names = list(texts)

    def keep(place: int, nats: list[float]) -> None:
        journal.put(names[place], nats)
        bar.advance()

    with subject.as_arm(arm) as model:
        score_continuations(model, list(texts.values()), cache_gib=budget.cache_gib, on_scored=keep)


def _prefix(item: ChoiceItem, index: PassageIndex, budget: Budget, arm: Arm) -> str:
    """What comes before the choices, as ``arm`` sees it."""
    passages = index.find(item.prefix, budget.passages) if retrieves(arm) else []
    return "\n\n".join([*(passage.text.strip() for passage in passages), item.prefix])


def _choice_row(
    arm: Arm, weights: str, key: str, item: ChoiceItem, nats: Sequence[float]
) -> dict[str, Any]:
    score = choice_score(item, nats)
    return {
        "key": result_key(weights, key),
        "task": item.task,
        "item_id": item.item_id,
        "cluster": item.cluster,
        "arm": arm,
        "value": float(score.is_right),
        "weight": 1.0,
        "detail": score.detail(item),
    }


def _after_first_word(tokenizer: PreTrainedTokenizerBase, text: str) -> PrefixedContinuations:
    """The first word is read only, so that there is something to go on."""
    rest = tokenizer(_rest(text), add_special_tokens=False)["input_ids"]
    return PrefixedContinuations(tokenizer(text.partition(" ")[0])["input_ids"], [rest])


def _rest(text: str) -> str:
    return f" {text.partition(' ')[2]}"


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
