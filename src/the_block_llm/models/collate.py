"""Collate packed rows into model inputs; attention stays within each segment of a row."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import torch

IGNORE_INDEX: Final = -100


def collate_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Collate packed rows into one padded micro-batch.

    Position ids restart at 0 in each segment. transformers detects packed rows by that and
    restricts attention to the segments, but only without an ``attention_mask``: even a mask of
    ones disables the detection. So no mask is returned, and the padding of a row is one more
    segment, without labels.

    Args:
        rows: Rows of the schema ``ROWS``; at least ``input_ids``, ``labels_mask`` and
            ``segment_lengths``.
        pad_token_id: Id of the padding token.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels``, each int64 of shape
        ``(rows, longest row)``.
    """
    padded_tokens = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), padded_tokens), pad_token_id, dtype=torch.int64)
    position_ids = torch.zeros((len(rows), padded_tokens), dtype=torch.int64)
    labels = torch.full((len(rows), padded_tokens), IGNORE_INDEX, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"], dtype=torch.int64)
        mask = torch.tensor(row["labels_mask"], dtype=torch.bool)
        n_tokens = ids.shape[0]
        input_ids[index, :n_tokens] = ids
        labels[index, :n_tokens] = torch.where(mask, ids, IGNORE_INDEX)
        lengths = [*row["segment_lengths"], padded_tokens - n_tokens]
        position_ids[index] = torch.cat([torch.arange(int(length)) for length in lengths])
        # The first token of a segment has no context to be predicted from.
        starts = torch.cumsum(torch.tensor([0, *lengths[:-1]]), dim=0)
        labels[index, starts[starts < padded_tokens]] = IGNORE_INDEX
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}


def collate_flat_rows(
    rows: Sequence[Mapping[str, Any]],
    pad_token_id: int,
    added_ids: Collection[int] = (),
) -> dict[str, Any]:
    """Collate packed rows into one micro-batch by concatenation, without padding.

    Computes on the host every index that the layerwise engine needs, so that a training step
    does not synchronize with the device.

    Args:
        rows: As for :func:`collate_rows`.
        pad_token_id: Replaces the ids of added tokens in ``input_ids``; there is no padding.
        added_ids: Consecutive ids of the tokens that the embedding has no row for.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels``, int64 of shape ``(1, tokens)``;
        ``positions`` and ``targets``, int64 of shape ``(targets,)``: the positions whose hidden
        states predict a target, and the targets; ``segment_lengths``, a list. With ``added_ids``
        also ``added_positions`` and ``added_rows``, ``(added tokens in the batch,)``: the
        positions of those tokens, and their indices from 0.
    """
    per_row = [collate_rows([row], pad_token_id) for row in rows]
    batch: dict[str, Any] = {
        name: torch.cat([row[name] for row in per_row], dim=1) for name in per_row[0]
    }
    is_target = batch["labels"][0] != IGNORE_INDEX
    # The first token of a row is never a target, so no prediction crosses a row boundary.
    target_positions = is_target.nonzero().squeeze(1)
    batch["positions"] = target_positions - 1
    batch["targets"] = batch["labels"][0][target_positions]
    batch["segment_lengths"] = [int(n) for row in rows for n in row["segment_lengths"] if n]
    if added_ids:
        added_rows = batch["input_ids"][0] - min(added_ids)
        is_added = (added_rows >= 0) & (added_rows < len(added_ids))
        added_positions = is_added.nonzero().squeeze(1)
        batch["added_positions"] = added_positions
        batch["added_rows"] = added_rows[added_positions]
        batch["input_ids"][0, added_positions] = pad_token_id
    return batch
