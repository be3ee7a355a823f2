"""How surprised a model is by a text, in nats."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

# Logits are the largest tensor of an evaluation: 128,256 float32 values a token for Llama-3.
_HEAD_TOKENS: Final = 512


@torch.no_grad()
def target_nats(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Measure each target token of a micro-batch of packed rows.

    The head runs only where something is predicted, a slice of tokens at a time, so the
    memory for logits does not grow with the length of the rows.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        batch: As :func:`~the_block_llm.models.segments.collate_rows` makes it:
            ``input_ids``, ``position_ids`` and ``labels``, each ``(rows, tokens)``.

    Returns:
        float32 on the CPU, ``(rows, tokens)``: ``-ln p(token | segment so far)`` where the
        label is a target, 0 elsewhere.
    """
    inner = causal_model(model)
    device = inner.get_input_embeddings().weight.device
    input_ids, position_ids, labels = (
        batch[name].to(device) for name in ("input_ids", "position_ids", "labels")
    )
    hidden = inner.get_decoder()(
        input_ids=input_ids, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    # Position 0 opens a segment; what stands before it belongs to another document.
    rows, columns = ((labels >= 0) & (position_ids > 0)).nonzero(as_tuple=True)
    nats = torch.zeros(input_ids.shape, dtype=torch.float32)
    if len(rows):
        losses = _head_nats(inner, hidden[rows, columns - 1], labels[rows, columns])
        nats[rows.cpu(), columns.cpu()] = losses.cpu()
    return nats


@torch.no_grad()
def continuation_nats(
    model: nn.Module, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Measure several continuations of one prefix, which is read only once.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        prefix: Token ids, at least one.
        continuations: Token ids of each, at least one.

    Returns:
        For each, ``-ln p(continuation | prefix)`` over all of its tokens.
    """
    inner = causal_model(model)
    device = inner.get_input_embeddings().weight.device
    read = inner.get_decoder()(input_ids=torch.tensor([prefix], device=device), use_cache=True)
    n, width = len(continuations), max(map(len, continuations))
    # Padding stands on the right, where causal attention keeps it from everything real.
    ids = torch.zeros((n, width), dtype=torch.int64)
    real = torch.zeros((n, width), dtype=torch.bool)
    for row, continuation in enumerate(continuations):
        ids[row, : len(continuation)] = torch.as_tensor(continuation)
        real[row, : len(continuation)] = True
    ids, real = ids.to(device), real.to(device)
    # The prefix's last state predicts each first token.
    hidden = read.last_hidden_state[:, -1:].expand(n, -1, -1)
    if width > 1:
        cache = read.past_key_values
        cache.batch_repeat_interleave(n)
        positions = torch.arange(len(prefix), len(prefix) + width - 1, device=device)
        later = inner.get_decoder()(
            input_ids=ids[:, :-1],
            position_ids=positions.expand(n, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, later], dim=1)
    nats = torch.zeros((n, width), dtype=torch.float32, device=device)
    nats[real] = _head_nats(inner, hidden[real], ids[real])
    totals: list[float] = nats.sum(dim=1).tolist()
    return totals


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside ``model``; adapter layers sit within it already."""
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def _head_nats(inner: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in slices; ``states`` is ``(n, hidden)``, ``targets`` ``(n,)``."""
    head = inner.get_output_embeddings()
    return torch.cat(
        [
            functional.cross_entropy(
                head(states[start : start + _HEAD_TOKENS]).float(),
                targets[start : start + _HEAD_TOKENS],
                reduction="none",
            )
            for start in range(0, len(targets), _HEAD_TOKENS)
        ]
    )
