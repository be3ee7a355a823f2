"""Packed rows as model input: several documents in a row, none of which sees another."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import torch

IGNORE_INDEX: Final = -100


def collate_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Make one micro-batch of packed rows.

    Positions start again at 0 with each segment. transformers recognises packed rows by
    that and keeps attention inside the segments, but only where no ``attention_mask`` is
    given: even one full of ones switches the recognition off. So there is none, and the
    padding that evens out the rows is a segment of its own, never a label.

    Args:
        rows: Of the schema ``ROWS``; at least ``input_ids``, ``labels_mask`` and
            ``segment_lengths``.
        pad_token_id: Token of the padding.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels``, each int64 of shape
        ``(rows, longest row)``.
    """
    width = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    position_ids = torch.zeros((len(rows), width), dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORE_INDEX, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"], dtype=torch.int64)
        mask = torch.tensor(row["labels_mask"], dtype=torch.bool)
        n_tokens = ids.shape[0]
        input_ids[index, :n_tokens] = ids
        labels[index, :n_tokens] = torch.where(mask, ids, IGNORE_INDEX)
        lengths = [*row["segment_lengths"], width - n_tokens]
        position_ids[index] = torch.cat([torch.arange(int(length)) for length in lengths])
        # Nothing precedes the first token of a segment, so it cannot be predicted.
        starts = torch.cumsum(torch.tensor([0, *lengths[:-1]]), dim=0)
        labels[index, starts[starts < width]] = IGNORE_INDEX
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}


def collate_flat_rows(
    rows: Sequence[Mapping[str, Any]],
    pad_token_id: int,
    added_ids: Collection[int] = (),
) -> dict[str, Any]:
    """Make one micro-batch whose rows stand one behind the other, without padding.

    Everything that the layerwise engine must know on the host is worked out here, on the
    host, so that a step never waits for the device.

    Args:
        rows: As for :func:`collate_rows`.
        pad_token_id: Stands in ``input_ids`` for added tokens; there is no padding.
        added_ids: Ids, one after the other, that the embedding has no row for.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels``, int64 of shape ``(1, tokens)``;
        ``positions`` and ``targets``, int64 of shape ``(targets,)``: which tokens predict, and
        what; ``segment_lengths``, a list. With ``added_ids`` also ``added_positions`` and
        ``added_rows``, ``(found,)``: where those tokens are, and their numbers from 0.
    """
    apart = [collate_rows([row], pad_token_id) for row in rows]
    batch: dict[str, Any] = {
        name: torch.cat([row[name] for row in apart], dim=1) for name in apart[0]
    }
    counted = batch["labels"][0] != IGNORE_INDEX
    # The first token of a row never counts, so no target is predicted across rows.
    followers = counted.nonzero().squeeze(1)
    batch["positions"] = followers - 1
    batch["targets"] = batch["labels"][0][followers]
    batch["segment_lengths"] = [int(n) for row in rows for n in row["segment_lengths"] if n]
    if added_ids:
        places = batch["input_ids"][0] - min(added_ids)
        found = ((places >= 0) & (places < len(added_ids))).nonzero().squeeze(1)
        batch["added_positions"], batch["added_rows"] = found, places[found]
        batch["input_ids"][0, found] = pad_token_id
    return batch
