"""Vectors of added tokens, trained beside the embedding and the head of a frozen model.

Only these rows are trained, and the matrices are neither touched nor copied: a row is looked
up, or multiplied, beside its matrix. What does that in a model is in ``token_layers.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from the_block_llm.errors import ProfileError


class InitialTokenEmbeddings(NamedTuple):
    """Vectors of added tokens before training."""

    first_id: int
    embedding: torch.Tensor
    """``(tokens, hidden)``."""
    head: torch.Tensor | None
    """None where the head is tied to the embedding."""


@dataclass(frozen=True)
class AddedTokenEmbeddings:
    """The trained rows of a model with an adapter; their ids follow one another."""

    first_id: int
    embedding: nn.Parameter
    """``(tokens, hidden)``."""
    head: nn.Parameter
    """The same object where embedding and head are tied."""

    @property
    def n_tokens(self) -> int:
        """How many there are."""
        return int(self.embedding.shape[0])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Each trained matrix once."""
        tied = self.head is self.embedding
        return [self.embedding] if tied else [self.embedding, self.head]


def first_added_id(tokens: Mapping[str, int], vocabulary_rows: int, model_name: str) -> int:
    """The id of the first added token.

    Raises:
        ProfileError: The ids leave gaps, so that a token would have no vector at all.
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
    """Where training of added tokens begins; none where there are none.

    Args:
        tokens: Ids by token.
        tokenizer: Of the model.
        embedding: Its matrix, ``(vocabulary, hidden)``.
        head: The same, or none where it is tied to the embedding.
        model_name: For the message.

    Raises:
        ProfileError: The ids leave gaps.
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
    """Where training begins: the mean of the words that a token is spelled with.

    A model then reads ``<|code_start|>`` as something like "code start" from the first step.

    Args:
        weight: Embedding or head, ``(vocabulary, hidden)``.
        tokenizer: Of the model.
        tokens: Ids of the added tokens, by token.

    Returns:
        float32, ``(tokens, hidden)``, in the order of the ids.
    """
    vectors = []
    for token in sorted(tokens, key=tokens.__getitem__):
        words = token.strip("<|>").replace("_", " ")
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        # A tokenizer without that alphabet: any real token is a better start than none.
        vectors.append(weight[ids or [0]].float().mean(dim=0))
    return torch.stack(vectors)


def concat_added_logits(logits: torch.Tensor, own: torch.Tensor, first_id: int) -> torch.Tensor:
    """Logits of a matrix and of added tokens, each under its id.

    A matrix may have spare rows where the added ids begin; those give way.

    Args:
        logits: ``(…, vocabulary)``.
        own: Of the added tokens, ``(…, tokens)``.
        first_id: Id of the first added token.

    >>> concat_added_logits(torch.tensor([[1., 2., 3.]]), torch.tensor([[7., 8.]]), 2)
    tensor([[1., 2., 7., 8.]])
    """
    after = logits[..., first_id + own.shape[-1] :]
    return torch.cat([logits[..., :first_id], own, after], dim=-1)


def with_added_rows(matrix: torch.Tensor, rows: torch.Tensor, first_id: int) -> torch.Tensor:
    """Embedding or head with the trained rows in it, as other programs want them; a copy."""
    return concat_added_logits(matrix.T, rows.detach().to(matrix).T, first_id).T


def split_logits_grad(
    slope: torch.Tensor, vocabulary: int, first_id: int, n_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`concat_added_logits` taken apart again.

    Args:
        slope: ``(n, widened)``; where added tokens took the place of spare rows of the matrix it
            is overwritten.
        vocabulary: Rows of the matrix.
        first_id: Id of the first added token.
        n_tokens: How many there are.

    Returns:
        Of the matrix's logits, ``(n, vocabulary)``, and of the added tokens', ``(n, n_tokens)``.
    """
    own = slope[:, first_id : first_id + n_tokens]
    if first_id >= vocabulary:
        return slope[:, :vocabulary], own
    own = own.clone()
    slope[:, first_id : first_id + n_tokens] = 0
    return slope[:, :vocabulary], own
