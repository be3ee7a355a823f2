"""Do two models give the same answers? The one's answers, as the other would have written them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from the_block_llm.models.inference.generation import SamplingParams, make_generation_config
from the_block_llm.models.inference.likelihood import causal_model


@dataclass(frozen=True)
class Reference:
    """An answer, and what the model that gave it thought of each token."""

    prompt: list[int]
    answer: list[int]
    log_probabilities: list[float]
    """Natural logarithms, one a token of the answer."""


@dataclass(frozen=True)
class Agreement:
    """How near one model comes to another."""

    n_answers: int
    n_tokens: int
    nats_apart: float
    """Mean absolute difference of the log-probabilities of an answer's tokens."""
    agreement: float
    """Share of the tokens that the other model would have chosen too."""


@torch.no_grad()
def references(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], answer_tokens: int
) -> list[Reference]:
    """Answer each prompt greedily."""
    inner = causal_model(model)
    settings = make_generation_config(model, tokenizer, SamplingParams(answer_tokens))
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=_device(inner))
        whole = inner.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        answer = whole[0, len(prompt) :].tolist()
        logits = _answer_logits(inner, prompt, answer)
        found.append(Reference(prompt, answer, _chosen(logits, answer)))
    return found


@torch.no_grad()
def compare(model: Any, given: Sequence[Reference]) -> Agreement:
    """How ``model`` would have answered where another gave ``given``."""
    apart: list[float] = []
    same = 0
    for reference in given:
        logits = _answer_logits(model, reference.prompt, reference.answer)
        mine = _chosen(logits, reference.answer)
        apart += [abs(a - b) for a, b in zip(mine, reference.log_probabilities, strict=True)]
        same += int((logits.argmax(-1).cpu() == torch.tensor(reference.answer)).sum())
    return Agreement(len(given), len(apart), sum(apart) / len(apart), same / len(apart))


def _answer_logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """float32 ``(tokens of the answer, vocabulary)``: what comes before each token."""
    ids = torch.tensor([[*prompt, *answer]], device=_device(model))
    logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits
    kept: torch.Tensor = logits[0, :-1].float()
    return kept


def _chosen(logits: torch.Tensor, answer: list[int]) -> list[float]:
    places = torch.tensor(answer, device=logits.device)[:, None]
    values: list[float] = logits.log_softmax(-1).gather(1, places)[:, 0].tolist()
    return values


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device
