"""Which training documents the mix has room for."""

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
_ROUNDS = 200  # of a sum that settles by halves; more than the precision of a float


def left_out_by_mix(
    documents: ParquetTable, mix: Mix, context_tokens: int
) -> npt.NDArray[np.bool_]:
    """Choose the training documents to leave out of a kind that has too many.

    The longest go first; of commits those longer than a row, oldest first: what they left
    stands in the files, and what is no longer there is not worth learning.

    Args:
        documents: The table ``documents``.
        mix: Most that each kind may take.
        context_tokens: Capacity of a row; what fits none takes no share.

    Returns:
        True for each row of the table that is left out, shape ``(rows,)``.
    """
    kind, n_tokens, written_at = _sharing(documents, context_tokens)
    tokens = {
        name: int(n_tokens[kind == number].sum()) for number, name in enumerate(DOCUMENT_KINDS)
    }
    shares = kept_shares({name: n for name, n in tokens.items() if n}, mix.model_dump())
    left_out = np.zeros(len(kind), np.bool_)
    for name, share in shares.items():
        if share == 1:
            continue
        own = np.flatnonzero(kind == DOCUMENT_KINDS.index(name))
        surplus = tokens[name] * (1 - share)
        lengths = n_tokens[own]
        order = np.argsort(-lengths, kind="stable")
        if name == "commit":
            is_long = lengths > context_tokens
            order = np.lexsort((-lengths, np.where(is_long, written_at[own], 0), ~is_long))
        for number in order:
            if surplus < 1:
                break
            if lengths[number] <= surplus or share == 0:
                left_out[own[number]] = True
                surplus -= int(lengths[number])
    return left_out


def _sharing(
    documents: ParquetTable, context_tokens: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Of every row the kind, -1 where it takes no share; its tokens; and when it was written.

    A training document takes a share where it fits a row, or may be cut.
    """
    kinds, lengths, times = [np.empty(0, np.int8)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    named = pa.array(DOCUMENT_KINDS)
    columns = ["document_id", "kind", "split", "n_tokens", "authored_at"]
    for batch in documents.batches(columns, _BATCH_ROWS):
        n_tokens = batch["n_tokens"].to_numpy()
        kind = pc.index_in(batch["kind"], value_set=named).to_numpy().astype(np.int8)
        stays_whole = pc.or_(
            pc.equal(batch["kind"], "chat"),
            pc.starts_with(batch["document_id"], pattern=FIM_ID_PREFIX),
        )
        fits = (n_tokens <= context_tokens) | ~stays_whole.to_numpy(zero_copy_only=False)
        is_train = pc.equal(batch["split"], "train").to_numpy(zero_copy_only=False)
        kinds.append(np.where(fits & is_train, kind, -1).astype(np.int8))
        lengths.append(n_tokens)
        times.append(batch["authored_at"].cast(pa.int64()).to_numpy())
    return np.concatenate(kinds), np.concatenate(lengths), np.concatenate(times)


def kept_shares(tokens: Mapping[str, int], caps: Mapping[str, float]) -> dict[str, float]:
    """How much of each kind stays, so that none takes more of what stays than its cap.

    >>> kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["chat"]
    1.0
    >>> round(kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["file"], 3)
    0.333
    """
    kept = {kind: float(count) for kind, count in tokens.items()}
    # Where a kind is missing, what is there may take its share, or nothing would be left.
    room = min(1.0, sum(caps[kind] for kind, count in tokens.items() if count)) or 1.0
    for _ in range(_ROUNDS):
        for kind, cap in ((kind, cap / room) for kind, cap in caps.items()):
            others = sum(count for other, count in kept.items() if other != kind)
            if kind in kept and cap < 1 and kept[kind] > cap / (1 - cap) * others:
                kept[kind] = cap / (1 - cap) * others
    return {kind: kept[kind] / count if count else 1.0 for kind, count in tokens.items()}
