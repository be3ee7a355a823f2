"""How surprised a model is by a text, in nats."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

# Logits are the largest tensor of an evaluation: 128,256 float32 values a token for Llama-3.
_HEAD_TOKENS: Final = 512
_INNER_VALUES: Final = 2**26
_CPU_TOKENS: Final = 2048
_ALIKE: Final = 16


@torch.no_grad()
def token_nll(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Measure each target token of a micro-batch of packed rows.

    The head runs only where something is predicted, a slice of tokens at a time, so the
    memory for logits does not grow with the length of the rows.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        batch: As :func:`~the_block_llm.models.collate.collate_rows` makes it:
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


class PrefixedContinuations(NamedTuple):
    """One text with several ways to go on, as token ids; none of them empty."""

    prefix: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def widest(self) -> int:
        """Tokens of the longest continuation."""
        return max(map(len, self.continuations))


def score_continuations(
    model: nn.Module,
    texts: Sequence[PrefixedContinuations],
    *,
    cache_gib: float,
    on_measured: Callable[[int, list[float]], None],
) -> None:
    """Measure continuations of many prefixes; each prefix is read only once.

    Short ones go through the model together, as many as memory allows: a small model on a GPU
    waits for launches, not for arithmetic.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        texts: What is measured, in any order.
        cache_gib: Most memory for keys and values; a longer text goes alone.
        on_measured: Called with a text's index and, for each of its continuations, with
            ``-ln p(continuation | prefix)`` over all of its tokens, as soon as the batch it is in
            has finished.
    """
    inner = causal_model(model)
    cache_tokens = int(cache_gib * 2**30 / cache_bytes_per_token(inner))
    # What one pass reads is bounded too: its activations take memory beside the cache.
    most = min(cache_tokens, max_batch_tokens(inner))
    for batch in _grouped(texts, most):
        results = _measure_batch(inner, [texts[index] for index in batch])
        for index, nats in zip(batch, results, strict=True):
            on_measured(index, nats)


def _grouped(texts: Sequence[PrefixedContinuations], most_tokens: int) -> Iterator[list[int]]:
    """Put texts of like shape together as long as they fit, padded to the longest; one always does.

    Returns:
        Places in ``texts``.
    """
    # Continuations are repeated and padded most, so theirs are the lengths to keep alike first.
    order = sorted(
        range(len(texts)), key=lambda at: (texts[at].widest // _ALIKE, len(texts[at].prefix))
    )
    batch: list[int] = []
    for at in order:
        together = [texts[index] for index in (*batch, at)]
        padded = max(len(t.prefix) for t in together) + max(t.widest for t in together)
        if batch and padded * sum(len(t.continuations) for t in together) > most_tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def cache_bytes_per_token(model: Any) -> int:
    """Keys and values of all layers, in the type that the model computes in."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head * model.dtype.itemsize)


def max_batch_tokens(model: nn.Module) -> int:
    """Tokens that one pass may read where memory is short: 4,681 of Llama-3.1-8B.

    Their largest activations, the inner width of the MLP, then take 128 MiB in bfloat16. A CPU
    gains nothing from more than a few hundred.
    """
    inner = causal_model(model)
    if inner.device.type == "cpu":
        return _CPU_TOKENS
    return int(_INNER_VALUES // inner.config.intermediate_size)


@torch.no_grad()
def _measure_batch(inner: Any, texts: Sequence[PrefixedContinuations]) -> list[list[float]]:
    device = inner.get_input_embeddings().weight.device
    owner = torch.tensor([at for at, text in enumerate(texts) for _ in text.continuations])
    # Prefixes end together, so that continuations begin together; what pads them stands on the
    # left, where the mask hides it. Continuations are padded on the right, which causal
    # attention keeps from everything real.
    prefixes, read = _padded([text.prefix for text in texts], on_the_left=True)
    ids, real = _padded([c for text in texts for c in text.continuations], on_the_left=False)
    is_padded = not bool(read.all())
    lengths = read.sum(dim=1)
    prefixes, read, ids, real = (t.to(device) for t in (prefixes, read, ids, real))
    first = inner.get_decoder()(
        input_ids=prefixes,
        attention_mask=read.long() if is_padded else None,
        position_ids=(read.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
    )
    # A prefix's last state predicts each first token.
    hidden = first.last_hidden_state[owner.to(device), -1:]
    width = ids.shape[1]
    if width > 1:
        cache = first.past_key_values
        cache.batch_select_indices(owner.to(device))
        after = torch.ones((len(owner), width - 1), dtype=torch.long, device=device)
        later = inner.get_decoder()(
            input_ids=ids[:, :-1],
            attention_mask=(
                torch.cat([read[owner.to(device)].long(), after], dim=1) if is_padded else None
            ),
            position_ids=(lengths[owner][:, None] + torch.arange(width - 1)).to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, later], dim=1)
    nats = torch.zeros(ids.shape, dtype=torch.float32, device=device)
    nats[real] = _head_nats(inner, hidden[real], ids[real])
    totals: list[float] = nats.sum(dim=1).tolist()
    ends = list(accumulate(len(text.continuations) for text in texts))
    return [totals[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _padded(
    rows: Sequence[Sequence[int]], *, on_the_left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids ``(rows, longest)``, and where they are real."""
    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    real = torch.zeros((len(rows), width), dtype=torch.bool)
    for place, row in enumerate(rows):
        start = width - len(row) if on_the_left else 0
        ids[place, start : start + len(row)] = torch.as_tensor(row)
        real[place, start : start + len(row)] = True
    return ids, real


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
