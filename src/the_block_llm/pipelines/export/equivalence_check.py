"""Numerical equivalence of two models, on greedy answers of the first.

The second model scores the same answers (teacher forcing). Compared are the log-probability of
each token, and whether the second model's greedy choice is the same token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from the_block_llm.models.inference.generation import SamplingParams, make_generation_config
from the_block_llm.models.inference.likelihood import unwrap_peft_model


@dataclass(frozen=True)
class ReferenceAnswer:
    """Greedy answer of the reference model to a prompt."""

    prompt: list[int]
    """Token ids."""
    answer: list[int]
    """Token ids."""
    log_probabilities: list[float]
    """Natural logarithm of the probability of each token of the answer."""


@dataclass(frozen=True)
class Equivalence:
    """Differences between a model and the reference model; stored in the export report."""

    n_answers: int
    n_tokens: int
    nats_apart: float
    """Mean absolute difference of the log-probabilities of the answers' tokens."""
    agreement: float
    """Fraction of the answers' tokens that are also the model's greedy choice."""


@torch.no_grad()
def generate_references(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], answer_tokens: int
) -> list[ReferenceAnswer]:
    """Answer each prompt greedily, with at most ``answer_tokens`` tokens.

    Args:
        model: The reference model.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt.
        answer_tokens: Maximum length of an answer.
    """
    inner = unwrap_peft_model(model)
    config = make_generation_config(model, tokenizer, SamplingParams(answer_tokens))
    references = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=_device(inner))
        sequence = inner.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )
        answer = sequence[0, len(prompt) :].tolist()
        logits = _answer_logits(inner, prompt, answer)
        references.append(ReferenceAnswer(prompt, answer, _token_log_probabilities(logits, answer)))
    return references


@torch.no_grad()
def measure_equivalence(model: Any, references: Sequence[ReferenceAnswer]) -> Equivalence:
    """Score the reference answers with ``model`` and compare."""
    differences: list[float] = []
    n_same = 0
    for reference in references:
        logits = _answer_logits(model, reference.prompt, reference.answer)
        scores = _token_log_probabilities(logits, reference.answer)
        differences += [
            abs(a - b) for a, b in zip(scores, reference.log_probabilities, strict=True)
        ]
        n_same += int((logits.argmax(-1).cpu() == torch.tensor(reference.answer)).sum())
    n_tokens = len(differences)
    return Equivalence(len(references), n_tokens, sum(differences) / n_tokens, n_same / n_tokens)


def _answer_logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return the logits that predict each answer token, float32 ``(answer tokens, vocabulary)``."""
    ids = torch.tensor([[*prompt, *answer]], device=_device(model))
    logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits
    answer_logits: torch.Tensor = logits[0, :-1].float()
    return answer_logits


def _token_log_probabilities(logits: torch.Tensor, answer: list[int]) -> list[float]:
    token_ids = torch.tensor(answer, device=logits.device)[:, None]
    values: list[float] = logits.log_softmax(-1).gather(1, token_ids)[:, 0].tolist()
    return values


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device
