"""Batched generation whose answers do not depend on the composition of the batch."""

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

from the_block_llm.models.inference.likelihood import cache_bytes_per_token, unwrap_peft_model


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters."""

    max_new_tokens: int
    temperature: float = 0.0
    """0: greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the most likely tokens with this cumulative probability."""
    seed: int = 0
    """Seed of the sampler; unused at temperature 0."""


@dataclass(frozen=True)
class Completion:
    """Generated text, without the prompt."""

    text: str
    n_tokens: int
    """New tokens, excluding the stop token."""
    finish: Literal["stop", "length"]
    """``stop``: the model generated a stop token; ``length``: it reached ``max_new_tokens``."""


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    *,
    batch_rows: int,
    cache_gib: float,
    on_completion: Callable[[int, Completion], None],
) -> None:
    """Complete ``prompts`` in batches of similar length, which need little padding.

    Args:
        model: A causal language model, with or without an adapter, in evaluation mode.
        tokenizer: The model's tokenizer, with a pad token.
        prompts: Token ids of each prompt, at least one token.
        sampling: Sampling parameters.
        batch_rows: Maximum number of prompts in a batch.
        cache_gib: Limit of the KV cache, which may reduce the batch size; a batch always has at
            least one prompt.
        on_completion: Called with the index of a prompt and its completion when its batch has
            finished.
    """
    cache_tokens = int(cache_gib * 2**30 / cache_bytes_per_token(unwrap_peft_model(model)))
    lengths = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
    for batch in batch_by_length(lengths, batch_rows, cache_tokens):
        answers = _generate_batch(model, tokenizer, [prompts[i] for i in batch], sampling)
        for index, answer in zip(batch, answers, strict=True):
            on_completion(index, answer)


def batch_by_length(lengths: Sequence[int], batch_rows: int, cache_tokens: int) -> list[list[int]]:
    """Batch prompts by length, shortest first, such that each padded batch fits the KV cache.

    Args:
        lengths: Tokens of each prompt, including the tokens to generate.
        batch_rows: Maximum number of prompts in a batch.
        cache_tokens: Capacity of the KV cache, in tokens; a single prompt may exceed it.

    Returns:
        For each batch the indices into ``lengths``.

    >>> batch_by_length([9, 4, 5, 30], batch_rows=3, cache_tokens=20)
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
    """Return all EOS token ids of the model's generation config and of the tokenizer, sorted."""
    configured = unwrap_peft_model(model).generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    return sorted(id_ for id_ in ids if id_ is not None)


def make_generation_config(
    model: Any, tokenizer: PreTrainedTokenizerBase, sampling: SamplingParams
) -> GenerationConfig:
    """Build the GenerationConfig; sampling is done by :func:`logits_processors`."""
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        # Set explicitly: defaults come from the model's generation_config.json, which enables
        # sampling for Llama.
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
    sampling: SamplingParams,
) -> list[Completion]:
    stop_ids = stop_token_ids(model, tokenizer)
    prompt_tokens = max(map(len, prompts))
    device = unwrap_peft_model(model).get_input_embeddings().weight.device
    input_ids = torch.full((len(prompts), prompt_tokens), int(tokenizer.pad_token_id))
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        # Left padding, so that new tokens directly follow each prompt.
        input_ids[row, prompt_tokens - len(prompt) :] = torch.as_tensor(prompt)
        attention_mask[row, prompt_tokens - len(prompt) :] = 1
    output = unwrap_peft_model(model).generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=make_generation_config(model, tokenizer, sampling),
        logits_processor=logits_processors(sampling, prompts),
    )
    return [
        _completion(tokenizer, row, set(stop_ids)) for row in output[:, prompt_tokens:].tolist()
    ]


def _completion(
    tokenizer: PreTrainedTokenizerBase, new_ids: Sequence[int], stop_ids: set[int]
) -> Completion:
    end = next((index for index, id_ in enumerate(new_ids) if id_ in stop_ids), None)
    answer_ids = new_ids if end is None else new_ids[:end]
    text = str(tokenizer.decode(answer_ids, skip_special_tokens=True)).strip()
    return Completion(
        text=text, n_tokens=len(answer_ids), finish="length" if end is None else "stop"
    )


def logits_processors(
    sampling: SamplingParams, prompts: Sequence[Sequence[int]]
) -> LogitsProcessorList:
    """Build the logits processors that turn greedy decoding into sampling.

    Args:
        sampling: Sampling parameters; at temperature 0 the list is empty.
        prompts: Prompts of the batch, which seed the sampler of each row.
    """
    if sampling.temperature == 0:
        return LogitsProcessorList()
    processors: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*processors, _GumbelSampler(prompts, sampling.seed)])


class _GumbelSampler(LogitsProcessor):
    """Gumbel-max sampling: the argmax of logits plus Gumbel noise is a categorical sample.

    Each row has its own generator, seeded by its prompt. So a completion does not depend on its
    batch, and a resumed run generates the same completions.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], seed: int) -> None:
        self._generators = [
            torch.Generator().manual_seed(_row_seed(prompt, seed)) for prompt in prompts
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        # Generated on the CPU, so that the noise does not depend on the device.
        exponential = torch.stack(
            [
                torch.empty(scores.shape[-1]).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        gumbel = -torch.log(exponential.clamp(min=1e-20))
        return scores + gumbel.to(scores.device, scores.dtype)


def _row_seed(prompt: Sequence[int], seed: int) -> int:
    digest = hashlib.sha256(repr((seed, list(prompt))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
