"""Trained embeddings of added tokens, stored separately from a frozen embedding and head.

Only these rows are trained; the frozen matrices are neither modified nor copied. The modules that
use the rows are in ``added_embedding_layers.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from the_block_llm.errors import ProfileError


class InitialTokenEmbeddings(NamedTuple):
    """Initial embeddings of added tokens."""

    first_id: int
    embedding: torch.Tensor
    """``(tokens, hidden)``."""
    head: torch.Tensor | None
    """None if the head is tied to the embedding."""


@dataclass(frozen=True)
class AddedTokenEmbeddings:
    """Trained embeddings of the added tokens of an adapter; their ids are consecutive."""

    first_id: int
    embedding: nn.Parameter
    """``(tokens, hidden)``."""
    head: nn.Parameter
    """Same object as ``embedding`` if the two are tied."""

    @property
    def n_tokens(self) -> int:
        """Number of added tokens."""
        return int(self.embedding.shape[0])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, without duplicates."""
        tied = self.head is self.embedding
        return [self.embedding] if tied else [self.embedding, self.head]


def first_added_id(tokens: Mapping[str, int], vocabulary_rows: int, model_name: str) -> int:
    """Return the id of the first added token.

    Raises:
        ProfileError: The ids have a gap, so an id would have no embedding.
    """
    ids = sorted(tokens.values())
    if ids != list(range(ids[0], ids[0] + len(ids))) or ids[0] > vocabulary_rows:
        raise ProfileError(
            f"The added tokens have the ids {ids}; {model_name} has {vocabulary_rows} vectors, "
            "which they must follow without a gap. Build the rows without them, with "
            "--params=sequence_build.domain_marks=false."
        )
    return ids[0]


def initial_embeddings(
    tokens: Mapping[str, int],
    tokenizer: PreTrainedTokenizerBase,
    embedding: torch.Tensor,
    head: torch.Tensor | None,
    model_name: str,
) -> InitialTokenEmbeddings | None:
    """Compute the initial embeddings of added tokens; None without added tokens.

    Args:
        tokens: Ids by token.
        tokenizer: The model's tokenizer.
        embedding: Weight of the embedding, ``(vocabulary, hidden)``.
        head: Weight of the head, ``(vocabulary, hidden)``; None if tied to the embedding.
        model_name: Name for the error message.

    Raises:
        ProfileError: The ids have a gap.
    """
    if not tokens:
        return None
    return InitialTokenEmbeddings(
        first_added_id(tokens, embedding.shape[0], model_name),
        mean_subword_embeddings(embedding, tokenizer, tokens),
        None if head is None else mean_subword_embeddings(head, tokenizer, tokens),
    )


def mean_subword_embeddings(
    weight: torch.Tensor, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, int]
) -> torch.Tensor:
    """Return the mean embedding of the subwords that spell each added token.

    With this initialization ``<|code_start|>`` is close to "code start" from the first step.

    Args:
        weight: Weight of embedding or head, ``(vocabulary, hidden)``.
        tokenizer: The model's tokenizer.
        tokens: Ids of the added tokens, by token.

    Returns:
        float32, ``(tokens, hidden)``, in the order of the ids.
    """
    means = []
    for token in sorted(tokens, key=tokens.__getitem__):
        words = token.strip("<|>").replace("_", " ")
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        # If the tokenizer cannot encode the words, any existing token is a usable start.
        means.append(weight[ids or [0]].float().mean(dim=0))
    return torch.stack(means)


def concat_added_logits(
    logits: torch.Tensor, added_logits: torch.Tensor, first_id: int
) -> torch.Tensor:
    """Insert the logits of added tokens at their ids.

    They replace the logits of spare rows of the head, if it has any at these ids.

    Args:
        logits: Logits of the frozen head, ``(…, vocabulary)``.
        added_logits: Logits of the added tokens, ``(…, tokens)``.
        first_id: Id of the first added token.

    >>> concat_added_logits(torch.tensor([[1., 2., 3.]]), torch.tensor([[7., 8.]]), 2)
    tensor([[1., 2., 7., 8.]])
    """
    after = logits[..., first_id + added_logits.shape[-1] :]
    return torch.cat([logits[..., :first_id], added_logits, after], dim=-1)


def with_added_rows(matrix: torch.Tensor, rows: torch.Tensor, first_id: int) -> torch.Tensor:
    """Return a copy of an embedding or head that includes the trained rows."""
    return concat_added_logits(matrix.T, rows.detach().to(matrix).T, first_id).T


def split_logits_grad(
    logits_grad: torch.Tensor, vocabulary: int, first_id: int, n_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the gradient of the logits that :func:`concat_added_logits` returns.

    Args:
        logits_grad: Gradient of the combined logits, ``(n, combined)``; overwritten if added
            tokens replace spare rows of the head.
        vocabulary: Rows of the frozen head.
        first_id: Id of the first added token.
        n_tokens: Number of added tokens.

    Returns:
        Gradients of the frozen head's logits, ``(n, vocabulary)``, and of the added tokens'
        logits, ``(n, n_tokens)``.
    """
    added_grad = logits_grad[:, first_id : first_id + n_tokens]
    if first_id >= vocabulary:
        return logits_grad[:, :vocabulary], added_grad
    added_grad = added_grad.clone()
    logits_grad[:, first_id : first_id + n_tokens] = 0
    return logits_grad[:, :vocabulary], added_grad
