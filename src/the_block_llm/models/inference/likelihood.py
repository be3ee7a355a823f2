"""Negative log-likelihood (NLL) of given texts, in nats."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

# Logits are the largest tensor of an evaluation: 128,256 float32 values per token for Llama-3.
_HEAD_CHUNK_TOKENS: Final = 512
_MAX_MLP_VALUES: Final = 2**26
_CPU_BATCH_TOKENS: Final = 2048
_LENGTH_BUCKET_TOKENS: Final = 16


@torch.no_grad()
def token_nll(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the NLL of each target token of a micro-batch of packed rows.

    The head runs only on positions that predict a target, in chunks, so the memory for logits does
    not grow with the length of the rows.

    Args:
        model: A causal language model, with or without an adapter, in evaluation mode.
        batch: Output of :func:`~the_block_llm.models.collate.collate_rows`:
            ``input_ids``, ``position_ids`` and ``labels``, each ``(rows, tokens)``.

    Returns:
        float32 on the CPU, ``(rows, tokens)``: ``-ln p(token | segment so far)`` for targets, 0
        for other tokens.
    """
    inner = unwrap_peft_model(model)
    device = inner.get_input_embeddings().weight.device
    input_ids, position_ids, labels = (
        batch[name].to(device) for name in ("input_ids", "position_ids", "labels")
    )
    hidden = inner.get_decoder()(
        input_ids=input_ids, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    # Position 0 starts a segment; the preceding token belongs to another document.
    rows, columns = ((labels >= 0) & (position_ids > 0)).nonzero(as_tuple=True)
    nll = torch.zeros(input_ids.shape, dtype=torch.float32)
    if len(rows):
        losses = _token_nll(inner, hidden[rows, columns - 1], labels[rows, columns])
        nll[rows.cpu(), columns.cpu()] = losses.cpu()
    return nll


class PrefixedContinuations(NamedTuple):
    """A prefix and its alternative continuations, as token ids; none of them empty."""

    prefix: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def max_continuation_tokens(self) -> int:
        """Length of the longest continuation, in tokens."""
        return max(map(len, self.continuations))


def score_continuations(
    model: nn.Module,
    texts: Sequence[PrefixedContinuations],
    *,
    cache_gib: float,
    on_scored: Callable[[int, list[float]], None],
) -> None:
    """Compute the NLL of continuations; each prefix is encoded only once.

    Short texts are batched as far as memory allows, because a small model on a GPU is bound by
    kernel launches.

    Args:
        model: A causal language model, with or without an adapter, in evaluation mode.
        texts: Prefixes with their continuations, in any order.
        cache_gib: Limit of the KV cache; a text that exceeds it is a batch by itself.
        on_scored: Called with the index of a text and ``-ln p(continuation | prefix)`` of each of
            its continuations when its batch has finished.
    """
    inner = unwrap_peft_model(model)
    cache_tokens = int(cache_gib * 2**30 / cache_bytes_per_token(inner))
    # The tokens of a forward pass are limited as well, for the memory of the activations.
    max_tokens = min(cache_tokens, max_batch_tokens(inner))
    for batch in _batches(texts, max_tokens):
        results = _score_batch(inner, [texts[index] for index in batch])
        for index, nll in zip(batch, results, strict=True):
            on_scored(index, nll)


def _batches(texts: Sequence[PrefixedContinuations], max_tokens: int) -> Iterator[list[int]]:
    """Batch texts of similar lengths such that each padded batch has at most ``max_tokens``.

    Yields:
        Indices into ``texts``; at least one, even if it exceeds the limit.
    """

    # Sort by continuation first: there are several per text, so they cause most of the padding.
    def lengths(index: int) -> tuple[int, int]:
        text = texts[index]
        return text.max_continuation_tokens // _LENGTH_BUCKET_TOKENS, len(text.prefix)

    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lengths):
        candidate = [texts[i] for i in (*batch, index)]
        padded_tokens = max(len(text.prefix) for text in candidate) + max(
            text.max_continuation_tokens for text in candidate
        )
        if batch and padded_tokens * sum(len(t.continuations) for t in candidate) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def cache_bytes_per_token(model: Any) -> int:
    """Return the bytes of the KV cache per token, over all layers, in the model's dtype."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize)


def max_batch_tokens(model: nn.Module) -> int:
    """Return the token limit of a forward pass: 4,681 for Llama-3.1-8B on a GPU.

    The largest activations, those of the MLP's intermediate size, then take 128 MiB in bfloat16. On
    a CPU more than a few hundred tokens do not increase the throughput.
    """
    inner = unwrap_peft_model(model)
    if inner.device.type == "cpu":
        return _CPU_BATCH_TOKENS
    return int(_MAX_MLP_VALUES // inner.config.intermediate_size)


@torch.no_grad()
def _score_batch(inner: Any, texts: Sequence[PrefixedContinuations]) -> list[list[float]]:
    device = inner.get_input_embeddings().weight.device
    text_index = torch.tensor([i for i, text in enumerate(texts) for _ in text.continuations])
    # Prefixes are padded on the left, so that all continuations start at the same column; the mask
    # hides the padding. Continuations are padded on the right, which causal attention hides.
    prefixes, prefix_mask = _pad([text.prefix for text in texts], pad_left=True)
    ids, token_mask = _pad([c for text in texts for c in text.continuations], pad_left=False)
    is_padded = not bool(prefix_mask.all())
    lengths = prefix_mask.sum(dim=1)
    prefixes, prefix_mask, ids, token_mask = (
        tensor.to(device) for tensor in (prefixes, prefix_mask, ids, token_mask)
    )
    prefix_output = inner.get_decoder()(
        input_ids=prefixes,
        attention_mask=prefix_mask.long() if is_padded else None,
        position_ids=(prefix_mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
    )
    # The last state of a prefix predicts the first token of each continuation.
    hidden = prefix_output.last_hidden_state[text_index.to(device), -1:]
    n_columns = ids.shape[1]
    if n_columns > 1:
        cache = prefix_output.past_key_values
        cache.batch_select_indices(text_index.to(device))
        continuation_mask = torch.ones(
            (len(text_index), n_columns - 1), dtype=torch.long, device=device
        )
        continuation_states = inner.get_decoder()(
            input_ids=ids[:, :-1],
            attention_mask=(
                torch.cat([prefix_mask[text_index.to(device)].long(), continuation_mask], dim=1)
                if is_padded
                else None
            ),
            position_ids=(lengths[text_index][:, None] + torch.arange(n_columns - 1)).to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, continuation_states], dim=1)
    nll = torch.zeros(ids.shape, dtype=torch.float32, device=device)
    nll[token_mask] = _token_nll(inner, hidden[token_mask], ids[token_mask])
    totals: list[float] = nll.sum(dim=1).tolist()
    ends = list(accumulate(len(text.continuations) for text in texts))
    return [totals[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _pad(rows: Sequence[Sequence[int]], *, pad_left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the padded token ids, ``(rows, longest)``, and the mask of actual tokens."""
    n_columns = max(map(len, rows))
    ids = torch.zeros((len(rows), n_columns), dtype=torch.int64)
    mask = torch.zeros((len(rows), n_columns), dtype=torch.bool)
    for index, row in enumerate(rows):
        start = n_columns - len(row) if pad_left else 0
        ids[index, start : start + len(row)] = torch.as_tensor(row)
        mask[index, start : start + len(row)] = True
    return ids, mask


def unwrap_peft_model(model: nn.Module) -> Any:
    """Return the transformers model inside ``model``; it includes the adapter layers."""
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def _token_nll(inner: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the NLL in chunks; ``states`` is ``(n, hidden)``, ``targets`` ``(n,)``."""
    head = inner.get_output_embeddings()
    return torch.cat(
        [
            functional.cross_entropy(
                head(states[start : start + _HEAD_CHUNK_TOKENS]).float(),
                targets[start : start + _HEAD_CHUNK_TOKENS],
                reduction="none",
            )
            for start in range(0, len(targets), _HEAD_CHUNK_TOKENS)
        ]
    )
