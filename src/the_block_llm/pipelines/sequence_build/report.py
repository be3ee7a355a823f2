"""Report of sequence_build: counts of documents, rows and tokens, and warnings."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import stored_data
from the_block_llm.languages import language_of
from the_block_llm.models.profiles import TrainingValues
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening
from the_block_llm.pipelines.sequence_build.document import FIM_ID_PREFIX, is_atomic
from the_block_llm.pipelines.sequence_build.documents.multi_repository import CommitCounts
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import Split

_MIN_ROWS: Final = 500
_MIN_TOKENS: Final = 50_000
_FULL_FRACTION: Final = 0.99
_MAX_LEAKS: Final = 100  # in the report; `kedro audit --removed` lists all
_UNIFORM_FRACTION: Final = 0.9  # a history with more commits of one kind counts as uniform


def sequence_report(
    documents: ParquetTable,
    rows: Mapping[Split, ParquetTable],
    cutoff: Cutoff,
    commits: CommitCounts,
    shape: RowShape,
    screening: Screening,
    row_facts: Mapping[str, Any],
    excluded_by_mix: int,
    training: TrainingValues,
) -> dict[str, Any]:
    """Count documents, rows and tokens by split and kind.

    Returns:
        Counts under flat keys with units, the first ``leaks_removed`` with the matching document
        of each, and ``warnings``.
    """
    report: dict[str, Any] = {
        "cutoff_sha": cutoff.sha,
        "cutoff_time": cutoff.time.isoformat(),
        "can_be_evaluated_on_held_out": cutoff.holds_out,
        "context_tokens": shape.context_tokens,
        "overlap_tokens": shape.overlap_tokens,
        **_layout_facts(row_facts),
        "truncated_documents": 0,  # long documents are split into chunks, none is truncated
        "train_documents_left_out_by_mix": excluded_by_mix,
    }
    for split, duplicates in screening.duplicates.items():
        report[f"{split}_duplicates_removed_documents"] = len(duplicates)
    report |= {f"dropped_{reason}": count for reason, count in screening.dropped.items()}
    for (split, reason), count in sorted(
        Counter((leak.split, leak.reason) for leak in screening.leaks).items()
    ):
        report[f"{split}_leaks_removed_{reason}_documents"] = count
    report["leaks_removed"] = [asdict(leak) for leak in screening.leaks[:_MAX_LEAKS]]
    counts = _count_documents(documents, shape.context_tokens)
    for split in rows:
        report[f"{split}_commits"] = commits.by_split.get(split, 0)
        report |= {key: value for key, value in counts.items() if key.startswith(split)}
        report.setdefault(f"{split}_longer_than_a_row_documents", 0)
        report |= _count_rows(rows[split], split, shape)
    report |= _expected_training(report, training)
    report["warnings"] = _warnings(report, cutoff, commits, screening)
    return report


def _layout_facts(row_facts: Mapping[str, Any]) -> dict[str, Any]:
    with stored_data("The dataset row_facts", "Run `kedro run --pipeline=sequence_build` again."):
        return {name: row_facts[name] for name in ("added_tokens", "curriculum")}


def _count_documents(documents: ParquetTable, context_tokens: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in documents.rows(["document_id", "kind", "split", "source", "n_tokens"]):
        if is_atomic(row["kind"], row["document_id"]) and row["n_tokens"] > context_tokens:
            counts[f"{row['split']}_longer_than_a_row_documents"] += 1
            continue
        if row["document_id"].startswith(FIM_ID_PREFIX):
            counts[f"{row['split']}_middle_last_documents"] += 1
        counts[f"{row['split']}_{row['kind']}_documents"] += 1
        counts[f"{row['split']}_{row['kind']}_tokens"] += row["n_tokens"]
        if row["kind"] == "file":
            language = language_of(PurePosixPath(row["source"]).name) or "unknown language"
            counts[f"{row['split']}_{language}_file_tokens"] += row["n_tokens"]
    return dict(sorted(counts.items()))


def _count_rows(rows: ParquetTable, split: Split, shape: RowShape) -> dict[str, Any]:
    n_tokens = trained = capacity = short = 0
    capacity_by_stage = np.array([shape.context_tokens, *shape.stage_tokens], np.int64)
    for batch in rows.batches(["labels_mask", "n_tokens", "stage"]):
        capacities, lengths = (
            capacity_by_stage[batch["stage"].to_numpy()],
            batch["n_tokens"].to_numpy(),
        )
        capacity += int(capacities.sum())
        n_tokens += int(lengths.sum())
        short += int(np.count_nonzero(lengths < _FULL_FRACTION * capacities))
        trained += int(np.count_nonzero(batch["labels_mask"].flatten()))
    return {
        f"{split}_rows": rows.num_rows,
        f"{split}_row_tokens": n_tokens,
        f"{split}_trained_tokens": trained,
        f"{split}_rows_under_99_percent": short,
        f"{split}_fill_percent": round(100 * n_tokens / capacity, 2) if capacity else 0.0,
        f"{split}_trained_percent": round(100 * trained / capacity, 2) if capacity else 0.0,
    }


def _expected_training(report: Mapping[str, Any], values: TrainingValues) -> dict[str, int]:
    """Return the epochs and steps that follow from the profile's token budget."""
    trained = report["train_trained_tokens"]
    epochs = math.ceil(values.target_tokens / trained) if trained else values.min_epochs
    epochs = max(values.min_epochs, min(values.max_epochs, epochs))
    steps = math.ceil(report["train_rows"] / values.effective_batch_rows)
    return {
        "expected_epochs": epochs,
        "expected_steps_per_epoch": steps,
        "expected_steps": epochs * steps,
    }


def _warnings(
    report: Mapping[str, Any], cutoff: Cutoff, commits: CommitCounts, screening: Screening
) -> list[str]:
    warnings: list[str] = []
    if report["train_rows"] < _MIN_ROWS or report["train_trained_tokens"] < _MIN_TOKENS:
        warnings.append(
            f"There is little training data: {report['train_rows']} rows with "
            f"{report['train_trained_tokens']:,} trained tokens. Below {_MIN_ROWS} rows or "
            f"{_MIN_TOKENS:,} tokens a model learns phrases rather than the project."
        )
    if not cutoff.holds_out:
        warnings.append(
            "Everything is trained on (cutoff: null), so this model can't be evaluated on "
            "held-out documents."
        )
    too_long = report["train_longer_than_a_row_documents"]
    if too_long:
        warnings.append(
            f"Left out {too_long} training documents longer than a row of "
            f"{report['context_tokens']} tokens, since chats are never split. Raise "
            "sequence_build.context_tokens to include them."
        )
    if screening.validation_repeats:
        warnings.append(
            "Every validation document resembles training text, so the validation loss says little "
            "about new text. Use a longer history or a larger sequence_build.validation_fraction."
        )
    kinds = Counter(commits.train_kinds)
    if (
        kinds
        and kinds.most_common(1)[0][1] > _UNIFORM_FRACTION * kinds.total()
        and kinds.total() > 1
    ):
        kind, count = kinds.most_common(1)[0]
        warnings.append(
            f"{count} of {kinds.total()} training commits are of the kind {kind!r}: answers about "
            "other kinds of change have little training data behind them."
        )
    return warnings
