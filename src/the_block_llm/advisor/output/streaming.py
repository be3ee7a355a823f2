"""One answer from a model, text as soon as it is certain, and an end whenever it is wanted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from the_block_llm.models.inference.generation import (
    SamplingParams,
    logits_processors,
    make_generation_config,
)
from the_block_llm.models.inference.likelihood import causal_model

# Prompts are read in pieces: what one piece needs beside the cache does not grow with the prompt.
_PREFILL_TOKENS: Final = 1024
Finish = Literal["stop", "length", "cancelled", "time"]


@dataclass(frozen=True)
class StreamEnd:
    """How an answer ended."""

    n_tokens: int
    """New tokens, the one that ended the answer not counted."""
    finish: Finish
    """``length``: the budget ran out; ``time``: the time did."""


def stream_text(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Sequence[int],
    decoding: SamplingParams,
    on_text: Callable[[str], None],
    *,
    repetition_penalty: float = 1.0,
    stop_texts: Sequence[str] = (),
    stop_tokens: Sequence[int] = (),
    is_cancelled: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
) -> StreamEnd:
    """Write an answer to ``prompt``, handing over text as it comes.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
        tokenizer: With a pad token.
        prompt: Token ids, at least one.
        decoding: How tokens are chosen.
        on_text: Called with each new piece of text, never half a character of it.
        repetition_penalty: Divides the logit of tokens that the answer holds already; the
            prompt does not count, since an answer must be able to cite it.
        stop_texts: The answer ends before the first of these.
        stop_tokens: End the answer beside the model's own.
        is_cancelled: Asked after every token.
        deadline: On the clock of ``time.monotonic``; at that time the answer ends where it is.
    """
    settings = make_generation_config(model, tokenizer, decoding)
    settings.eos_token_id = sorted({*settings.eos_token_id, *stop_tokens})
    if len(prompt) > _PREFILL_TOKENS:
        settings.prefill_chunk_size = _PREFILL_TOKENS
    inner = causal_model(model)
    device = inner.get_input_embeddings().weight.device
    ids = torch.tensor([list(prompt)], device=device)
    writer = _Writer(
        tokenizer, set(settings.eos_token_id), stop_texts, on_text, is_cancelled, deadline
    )
    steps = logits_processors(decoding, [prompt])
    if repetition_penalty > 1:
        steps.insert(
            0,
            RepetitionPenaltyLogitsProcessor(repetition_penalty, prompt_ignore_length=len(prompt)),
        )
    try:
        with torch.no_grad():
            inner.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                logits_processor=steps,
                streamer=writer,
            )
    except _EndedError as ended:
        finish: Finish = ended.finish
    else:
        finish = writer.finish
    if finish != "cancelled":
        writer.flush()
    return StreamEnd(writer.n_tokens, finish)


class _EndedError(Exception):
    """Leaves transformers' loop in the middle."""

    def __init__(self, finish: Finish) -> None:
        super().__init__(finish)
        self.finish: Finish = finish


class _Writer(BaseStreamer):
    """Turns tokens into text, and ends the answer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        stop_token_ids: set[int],
        stop_texts: Sequence[str],
        on_text: Callable[[str], None],
        is_cancelled: Callable[[], bool],
        deadline: float | None,
    ) -> None:
        self.n_tokens = 0
        self.finish: Finish = "length"
        self._tokenizer = tokenizer.backend_tokenizer
        # Control tokens that end nothing are left out of the text.
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop_ids = stop_token_ids
        self._stop_texts = [text for text in stop_texts if text]
        self._on_text = on_text
        self._is_cancelled = is_cancelled
        self._deadline = deadline
        self._held = ""
        """Text that may be the beginning of a stop text."""
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._is_cancelled():
            raise _EndedError("cancelled")
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            if token in self._stop_ids:
                raise _EndedError("stop")
            self.n_tokens += 1
            self._write(self._decoder.step(self._tokenizer, token) or "")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise _EndedError("time")

    def end(self) -> None:
        """Called by transformers when the budget is used up."""

    def flush(self) -> None:
        """Hand over what was held back."""
        if self._held:
            self._on_text(self._held)
            self._held = ""

    def _write(self, text: str) -> None:
        text = self._held + text
        ends = [at for stop in self._stop_texts if (at := text.find(stop)) >= 0]
        if ends:
            self._held = text[: min(ends)]
            raise _EndedError("stop")
        keep = max((_overlap(text, stop) for stop in self._stop_texts), default=0)
        self._held = text[len(text) - keep :]
        if ready := text[: len(text) - keep]:
            self._on_text(ready)


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that begin ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
