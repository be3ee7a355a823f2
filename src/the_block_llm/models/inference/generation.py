"""Answers from a model, several prompts at a time, the same whatever they are batched with."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from the_block_llm.models.inference.likelihood import cache_bytes_per_token, causal_model


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token each time; above 0 tokens are drawn."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Of the draw; unused at temperature 0."""


@dataclass(frozen=True)
class Completion:
    """What a model answered, without the prompt."""

    text: str
    n_tokens: int
    """New tokens, the one that ended the answer not counted."""
    finish: Literal["stop", "length"]
    """``length``: the budget ran out before the model ended its answer."""


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: SamplingParams,
    *,
    batch_rows: int,
    cache_gib: float,
    on_completion: Callable[[int, Completion], None],
) -> None:
    """Answer ``prompts``, of similar length together so that little is padded.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        tokenizer: With a pad token.
        prompts: Token ids; each at least one token.
        decoding: How tokens are chosen.
        batch_rows: Prompts that go through the model together, at most.
        cache_gib: Most memory for keys and values; fewer prompts go together where it is
            full, but always one.
        on_completion: Called with the prompt's index and its answer, as soon as the batch
            it is in has finished.
    """
    cache_tokens = int(cache_gib * 2**30 / cache_bytes_per_token(causal_model(model)))
    lengths = [len(prompt) + decoding.max_new_tokens for prompt in prompts]
    for batch in batches_that_fit(lengths, batch_rows, cache_tokens):
        answers = _generate_batch(model, tokenizer, [prompts[i] for i in batch], decoding)
        for index, answer in zip(batch, answers, strict=True):
            on_completion(index, answer)


def batches_that_fit(lengths: Sequence[int], batch_rows: int, cache_tokens: int) -> list[list[int]]:
    """Group prompts, shortest first, so that padded to the longest they fit the cache.

    >>> batches_that_fit([9, 4, 5, 30], batch_rows=3, cache_tokens=20)
    [[1, 2], [0], [3]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        size = len(batches[-1]) + 1 if batches else 0
        if batches and size <= batch_rows and size * lengths[index] <= cache_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def stop_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer: the model's own list and the tokenizer's."""
    configured = causal_model(model).generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    return sorted(id_ for id_ in ids if id_ is not None)


def make_generation_config(
    model: Any, tokenizer: PreTrainedTokenizerBase, decoding: SamplingParams
) -> GenerationConfig:
    """What transformers needs to know; drawing itself happens in :func:`logits_processors`."""
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        # Set here all the same: what is left out is taken from the model's own file, where
        # Llama asks for sampling.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        eos_token_id=stop_token_ids(model, tokenizer),
        pad_token_id=int(tokenizer.pad_token_id),
    )


@torch.no_grad()
def _generate_batch(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: SamplingParams,
) -> list[Completion]:
    stops = stop_token_ids(model, tokenizer)
    width = max(map(len, prompts))
    device = causal_model(model).get_input_embeddings().weight.device
    input_ids = torch.full((len(prompts), width), int(tokenizer.pad_token_id))
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        # Padding stands on the left: new tokens follow each prompt directly.
        input_ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    output = causal_model(model).generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=make_generation_config(model, tokenizer, decoding),
        logits_processor=logits_processors(decoding, prompts),
    )
    return [_completion(tokenizer, row, set(stops)) for row in output[:, width:].tolist()]


def _completion(
    tokenizer: PreTrainedTokenizerBase, new_ids: Sequence[int], stops: set[int]
) -> Completion:
    end = next((at for at, id_ in enumerate(new_ids) if id_ in stops), None)
    kept = new_ids if end is None else new_ids[:end]
    text = str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
    return Completion(text=text, n_tokens=len(kept), finish="length" if end is None else "stop")


def logits_processors(
    decoding: SamplingParams, prompts: Sequence[Sequence[int]]
) -> LogitsProcessorList:
    """What is done to the logits before the largest is taken; nothing at temperature 0."""
    if decoding.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(decoding.temperature)]
    if decoding.top_p < 1:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*steps, _RowwiseDraw(prompts, decoding.seed)])


class _RowwiseDraw(LogitsProcessor):
    """Add Gumbel noise, so that the largest logit is a draw from their distribution.

    Each row has its own generator, seeded by its prompt: an answer does not depend on the
    batch it was made in, and an interrupted run goes on with the very same answers.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], seed: int) -> None:
        self._generators = [
            torch.Generator().manual_seed(_seed_of(prompt, seed)) for prompt in prompts
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        # Drawn on the CPU: the same noise whatever the device.
        waits = torch.stack(
            [
                torch.empty(scores.shape[-1]).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        gumbel = -torch.log(waits.clamp(min=1e-20))
        return scores + gumbel.to(scores.device, scores.dtype)


def _seed_of(prompt: Sequence[int], seed: int) -> int:
    digest = hashlib.sha256(repr((seed, list(prompt))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
