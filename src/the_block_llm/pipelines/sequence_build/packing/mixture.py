"""Data mixture: which training documents to exclude so that no kind exceeds its cap."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.document import FIM_ID_PREFIX
from the_block_llm.pipelines.sequence_build.params import Mix
from the_block_llm.schemas import DOCUMENT_KINDS

_BATCH_ROWS: Final = 65_536
_ITERATIONS = 200  # the error halves in each, so this exceeds the precision of a float


def excluded_by_mix(
    documents: ParquetTable, mix: Mix, context_tokens: int
) -> npt.NDArray[np.bool_]:
    """Choose the training documents to exclude from kinds that exceed their cap.

    The longest are excluded first. Commits longer than a row go before all others,
    oldest first: the code that they added is in the files unless it was removed later.

    Args:
        documents: The table ``documents``.
        mix: Maximum fraction of the training tokens for each kind.
        context_tokens: Capacity of a row; a document that fits no row does not count.

    Returns:
        True for each row of the table that is excluded, shape ``(rows,)``.
    """
    kind, n_tokens, authored_at = _read_columns(documents, context_tokens)
    tokens = {
        name: int(n_tokens[kind == number].sum()) for number, name in enumerate(DOCUMENT_KINDS)
    }
    fractions = kept_fractions({name: n for name, n in tokens.items() if n}, mix.model_dump())
    excluded = np.zeros(len(kind), np.bool_)
    for name, fraction in fractions.items():
        if fraction == 1:
            continue
        rows = np.flatnonzero(kind == DOCUMENT_KINDS.index(name))
        surplus_tokens = tokens[name] * (1 - fraction)
        lengths = n_tokens[rows]
        order = np.argsort(-lengths, kind="stable")
        if name == "commit":
            is_long = lengths > context_tokens
            order = np.lexsort((-lengths, np.where(is_long, authored_at[rows], 0), ~is_long))
        for index in order:
            if surplus_tokens < 1:
                break
            if lengths[index] <= surplus_tokens or fraction == 0:
                excluded[rows[index]] = True
                surplus_tokens -= int(lengths[index])
    return excluded


def _read_columns(
    documents: ParquetTable, context_tokens: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the kind, tokens and time of every row of the table.

    The kind is an index into ``DOCUMENT_KINDS``, or -1 for a row that does not count: one of
    another split, or longer than a row and never split into chunks.
    """
    kinds, lengths, times = [np.empty(0, np.int8)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    kind_names = pa.array(DOCUMENT_KINDS)
    columns = ["document_id", "kind", "split", "n_tokens", "authored_at"]
    for batch in documents.batches(columns, _BATCH_ROWS):
        n_tokens = batch["n_tokens"].to_numpy()
        kind = pc.index_in(batch["kind"], value_set=kind_names).to_numpy().astype(np.int8)
        is_never_split = pc.or_(
            pc.equal(batch["kind"], "chat"),
            pc.starts_with(batch["document_id"], pattern=FIM_ID_PREFIX),
        )
        fits = (n_tokens <= context_tokens) | ~is_never_split.to_numpy(zero_copy_only=False)
        is_train = pc.equal(batch["split"], "train").to_numpy(zero_copy_only=False)
        kinds.append(np.where(fits & is_train, kind, -1).astype(np.int8))
        lengths.append(n_tokens)
        times.append(batch["authored_at"].cast(pa.int64()).to_numpy())
    return np.concatenate(kinds), np.concatenate(lengths), np.concatenate(times)


def kept_fractions(tokens: Mapping[str, int], caps: Mapping[str, float]) -> dict[str, float]:
    """Return the fraction of each kind to keep, so that none exceeds its cap of what is kept.

    Args:
        tokens: Tokens of each kind that occurs.
        caps: Maximum fraction of each kind.

    >>> kept_fractions({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["chat"]
    1.0
    >>> round(kept_fractions({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["file"], 3)
    0.333
    """
    kept = {kind: float(count) for kind, count in tokens.items()}
    # If a kind does not occur, the others may take its share, or nothing would be left.
    total_cap = min(1.0, sum(caps[kind] for kind, count in tokens.items() if count)) or 1.0
    for _ in range(_ITERATIONS):
        for kind, cap in ((kind, cap / total_cap) for kind, cap in caps.items()):
            others = sum(count for other, count in kept.items() if other != kind)
            if kind in kept and cap < 1 and kept[kind] > cap / (1 - cap) * others:
                kept[kind] = cap / (1 - cap) * others
    return {kind: kept[kind] / count if count else 1.0 for kind, count in tokens.items()}
