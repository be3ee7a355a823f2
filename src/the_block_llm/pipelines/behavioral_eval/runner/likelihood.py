"""Likelihood-based scores of held-out text, tasks and general ability, in every arm.

Each result goes into the result cache as soon as it is computed.
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
    DocumentSource,
    SegmentScore,
    drop_tokens,
    iter_batches,
    measure_rows,
)
from the_block_llm.pipelines.behavioral_eval.params import Arm, DeviceBudget
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import (
    EvaluatedModel,
    uses_retrieval,
)
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache, result_key
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.choice_scoring import (
    encode_choices,
    score_choices,
)
from the_block_llm.progress import ProgressBar, progress_bar
from the_block_llm.retrieval.passages import PassageIndex

HELD_OUT: Final = "held_out"
GENERAL_TEXT: Final = "general_text"


def measure_held_out(
    evaluated_model: EvaluatedModel,
    rows: Sequence[tuple[int, dict[str, Any]]],
    sources: Mapping[str, DocumentSource],
    arms: Sequence[Arm],
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Measure the bits per byte of held-out rows in ``arms``, without retrieval.

    Args:
        evaluated_model: The model under test.
        rows: Pairs of row number and packed row.
        sources: Source of each document in the rows, by document id.
        arms: The arms to evaluate.
        result_cache_folder: Cached results are read from here instead of computed again.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    n_tokens = len(arms) * sum(len(row["input_ids"]) for _, row in rows)
    with progress_bar("Measuring held-out text", n_tokens) as bar:
        for arm in arms:
            weights_id = evaluated_model.weights_id(arm)
            arm_rows = rows
            if unknown_ids := evaluated_model.unknown_token_ids(arm):
                arm_rows = [(number, drop_tokens(row, unknown_ids)) for number, row in rows]
            with (
                ResultCache(result_cache_folder, weights_id) as cache,
                evaluated_model.activate(arm) as model,
            ):
                keys = {number: _row_key(number, row) for number, row in arm_rows}
                missing = [(n, row) for n, row in arm_rows if keys[n] not in cache]
                bar.advance(n_tokens / len(arms) - sum(len(row["input_ids"]) for _, row in missing))
                for batch in iter_batches(missing, max_batch_tokens(model)):
                    by_row: dict[int, list[SegmentScore]] = {number: [] for number, _ in batch}
                    for segment in measure_rows(model, evaluated_model.tokenizer_for(arm), batch):
                        by_row[segment.row].append(segment)
                    for number, segments in by_row.items():
                        cache.put(keys[number], [asdict(segment) for segment in segments])
                    bar.advance(sum(len(row["input_ids"]) for _, row in batch))
                scores += [
                    _held_out_row(arm, weights_id, segment, sources)
                    for number, _ in rows
                    for segment in cache[keys[number]]
                ]
    return scores


def measure_tasks(
    evaluated_model: EvaluatedModel,
    items: Sequence[ChoiceItem],
    arms: Sequence[Arm],
    budget: DeviceBudget,
    index: PassageIndex,
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Score multiple-choice items in ``arms``.

    Args:
        evaluated_model: The model under test.
        items: The questions.
        arms: The arms to evaluate; those with retrieval only if the budget includes them.
        budget: Limits retrieval and memory.
        index: Passages for the arms with retrieval.
        result_cache_folder: Cached results are read from here instead of computed again.

    Returns:
        Rows of the schema ``ITEM_SCORES``: value 1 for correct, 0 for wrong.
    """
    task_arms = [arm for arm in arms if budget.tasks_with_retrieval or not uses_retrieval(arm)]
    scores: list[dict[str, Any]] = []
    with progress_bar("Scoring tasks", len(task_arms) * len(items)) as bar:
        for arm in task_arms:
            weights_id = evaluated_model.weights_id(arm)
            encoded = [
                encode_choices(
                    evaluated_model.tokenizer, _prompt_prefix(item, index, budget, arm), item
                )
                for item in items
            ]
            keys = [result_key("choice", *ids) for ids in encoded]
            with ResultCache(result_cache_folder, weights_id) as cache:
                missing = {
                    key: ids for key, ids in zip(keys, encoded, strict=True) if key not in cache
                }
                bar.advance(len(items) - len(missing))
                _score_missing(evaluated_model, arm, missing, budget, cache, bar)
                scores += [
                    _choice_row(arm, weights_id, key, item, cache[key])
                    for key, item in zip(keys, items, strict=True)
                ]
    return scores


def measure_general_text(
    evaluated_model: EvaluatedModel,
    texts: Sequence[str],
    arms: Sequence[Arm],
    budget: DeviceBudget,
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Measure the bits per byte of texts that are unrelated to the repository.

    The first word of a text is context only.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    scores: list[dict[str, Any]] = []
    encoded = {text: _rest_given_first_word(evaluated_model.tokenizer, text) for text in texts}
    keys = {text: result_key("text", *ids) for text, ids in encoded.items()}
    with progress_bar("Measuring general ability", len(arms) * len(texts)) as bar:
        for arm in arms:
            weights_id = evaluated_model.weights_id(arm)
            with ResultCache(result_cache_folder, weights_id) as cache:
                missing = {key: encoded[text] for text, key in keys.items() if key not in cache}
                bar.advance(len(texts) - len(missing))
                _score_missing(evaluated_model, arm, missing, budget, cache, bar)
                scores += [
                    {
                        "key": result_key(weights_id, key),
                        "task": GENERAL_TEXT,
                        "item_id": f"{GENERAL_TEXT}/{number}",
                        "cluster": f"{GENERAL_TEXT}/{number}",
                        "arm": arm,
                        "value": cache[key][0] / math.log(2),
                        "weight": float(len(_text_after_first_word(text).encode())),
                        "detail": json.dumps({"text": text}),
                    }
                    for number, (text, key) in enumerate(keys.items())
                ]
    return scores


def _score_missing(
    evaluated_model: EvaluatedModel,
    arm: Arm,
    texts: Mapping[str, PrefixedContinuations],
    budget: DeviceBudget,
    cache: ResultCache,
    bar: ProgressBar,
) -> None:
    """Score ``texts``, given by cache key, and store the results."""
    keys = list(texts)

    def store(index: int, nats: list[float]) -> None:
        cache.put(keys[index], nats)
        bar.advance()

    with evaluated_model.activate(arm) as model:
        score_continuations(
            model, list(texts.values()), cache_gib=budget.cache_gib, on_scored=store
        )


def _prompt_prefix(item: ChoiceItem, index: PassageIndex, budget: DeviceBudget, arm: Arm) -> str:
    """Return the prompt before the choices, with retrieved passages if ``arm`` has them."""
    passages = index.find(item.prefix, budget.passages) if uses_retrieval(arm) else []
    return "\n\n".join([*(passage.text.strip() for passage in passages), item.prefix])


def _choice_row(
    arm: Arm, weights_id: str, key: str, item: ChoiceItem, nats: Sequence[float]
) -> dict[str, Any]:
    score = score_choices(item, nats)
    return {
        "key": result_key(weights_id, key),
        "task": item.task,
        "item_id": item.item_id,
        "cluster": item.cluster,
        "arm": arm,
        "value": float(score.is_correct),
        "weight": 1.0,
        "detail": score.detail(item),
    }


def _rest_given_first_word(tokenizer: PreTrainedTokenizerBase, text: str) -> PrefixedContinuations:
    """Encode the text with its first word as the prefix, which is not scored."""
    rest_ids = tokenizer(_text_after_first_word(text), add_special_tokens=False)["input_ids"]
    return PrefixedContinuations(tokenizer(text.partition(" ")[0])["input_ids"], [rest_ids])


def _text_after_first_word(text: str) -> str:
    return f" {text.partition(' ')[2]}"


def _row_key(number: int, row: Mapping[str, Any]) -> str:
    """Return the cache key; segment scores contain row number and documents, so the key does."""
    return result_key(
        HELD_OUT,
        number,
        row["input_ids"],
        [bool(is_target) for is_target in row["labels_mask"]],
        row["segment_lengths"],
        row["document_ids"],
    )


def _held_out_row(
    arm: Arm, weights_id: str, segment: Mapping[str, Any], sources: Mapping[str, DocumentSource]
) -> dict[str, Any]:
    source = sources[segment["document_id"]]
    return {
        "key": result_key(weights_id, HELD_OUT, segment),
        "task": HELD_OUT,
        "item_id": segment["item_id"],
        "cluster": source.source,
        "arm": arm,
        "value": segment["bits"],
        "weight": float(segment["n_bytes"]),
        "detail": json.dumps({"kind": source.kind, "familiar": source.train_overlap}),
    }
